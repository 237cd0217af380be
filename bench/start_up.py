"""From the command to the second step: what the time goes into, and how often the functions are traced.

python bench/start_up.py

ResNet-50 from random weights, 384x384, batch 2, as `train.py` puts it together; shards stand.
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
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    train_program = importlib.import_module("train")
    mark("import deeplab")
    common = importlib.import_module("common")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = common.write_shards(folder, common.images_of_vocs_size(folder, 64))
        mark("(shards for this bench)")
        config = train_program.ModelConfig(manifest.class_names)
        model = train_program.build_deeplabv3(config)
        mark("build the model")
        schedule = train_program.schedules.Schedule("constant", 0.01, 10, 0, tf.Variable(1.0))
        optimizer = train_program.schedules.make_optimizer(
            "sgd", schedule, 0.9, 1e-4, model.trainable_variables, loss_scaling=False
        )
        augmentation = train_program.pipeline.Augmentation(CROP)
        strategy = tf.distribute.get_strategy()
        loss = train_program.Loss("cross_entropy", manifest.num_classes)
        train = train_program.step.make_train_function(
            strategy, model, optimizer, loss, weight_decay=1e-4, finish=augmentation.finish
        )
        mark("optimizer")
        batches = iter(train_program.pipeline.training_batches(folder, manifest, augmentation, BATCH, seed=0))
        mark("start the input chain")
        next(batches)
        mark("first batch")
        train.get_concrete_function(batches, tf.constant(1))
        mark("trace the step")
        float(train(batches, tf.constant(1))["loss"])
        mark("first step, with graph optimisation")
        float(train(batches, tf.constant(1))["loss"])
        mark("second step")
        for count in (2, 3, 1):
            train(batches, tf.constant(count))
        evaluate = train_program.step.make_evaluate_function(strategy, train_program.make_predictor(model), loss)
        for batch in train_program.pipeline.evaluation_batches(folder, manifest, BATCH).take(3):
            evaluate(batch)
        tracings = [function.experimental_get_tracing_count() for function in (train, evaluate)]
    seconds = {name: end - start for (_, start), (name, end) in itertools.pairwise(marks)}
    figures = {**seconds, "tracings_of_train_and_evaluate": tracings}
    common.report("start_up", ("part", "seconds"), list(seconds.items()), figures)


if __name__ == "__main__":
    main()
