"""Time from the command to the second step, by part, and how often the functions are traced.

python bench/speed/start_up.py

ResNet-50 from random weights, 384x384, batch 2, assembled as in `train.py`; the shards exist.
"""

import importlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

BATCH = 2
CROP = 384


def main() -> None:
    """Seconds by part, in order."""
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    tf = importlib.import_module("tensorflow")
    mark("import TensorFlow and Keras")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    train_program = importlib.import_module("train")
    mark("import deeplab")
    common = importlib.import_module("common")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = common.write_shards(folder, common.images_of_vocs_size(folder, 64))
        mark("(shards for this bench)")
        config = train_program.ModelConfig(split.class_names)
        model, _ = train_program.build_to_train(
            config, train_program.InitSettings(), has_weights=True, auxiliary_head=False
        )
        mark("build the model")
        state = common.sgd_state(model)
        augmentation = train_program.Augmentation(CROP)
        strategy = tf.distribute.get_strategy()
        loss = train_program.Loss(split.num_classes)
        train = train_program.make_train_step(strategy, state, loss, weight_decay=1e-4, finish=augmentation.finish)
        mark("optimizer")
        batches = train_program.Feed.make(strategy, split, augmentation, BATCH, seed=0, first_example=0).batches
        mark("start the input chain")
        next(batches)
        mark("first batch")
        train.get_concrete_function(batches, tf.constant(1))
        mark("trace the step")
        float(train(batches, tf.constant(1)).losses["loss"])
        mark("first step, with graph optimisation")
        float(train(batches, tf.constant(1)).losses["loss"])
        mark("second step")
        for count in (2, 3, 1):
            train(batches, tf.constant(count))
        evaluator = importlib.import_module("deeplab.evaluator")
        evaluate = evaluator.make_evaluate_step(strategy, train_program.Predictor(model), loss)
        whole_images = iter(evaluator.EvaluationSettings().batches(split, num_replicas=1).for_worker())
        for _ in range(3):
            evaluate(whole_images)
        tracings = [function.experimental_get_tracing_count() for function in (train, evaluate)]
    seconds = {name: end - start for (_, start), (name, end) in itertools.pairwise(marks)}
    figures = {**seconds, "tracings_of_train_and_evaluate": tracings}
    common.report("start_up", ("part", "seconds"), list(seconds.items()), figures)


if __name__ == "__main__":
    main()
