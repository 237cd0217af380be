"""Time from the command to the second step, by part, and how often the functions are traced.

python bench/speed/start_up.py

ResNet-50 from random weights, 384x384, batch 2, assembled as in `train.py`; the shards exist.
"""

import importlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 2
CROP = 384


def main() -> None:
    """Seconds by part, in order."""
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    importlib.import_module("tensorflow")
    mark("import TensorFlow and Keras")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    importlib.import_module("train")
    mark("import deeplab")
    with tempfile.TemporaryDirectory() as name:
        tracings = train_and_evaluate(Path(name), mark)
    seconds = {name: end - start for (_, start), (name, end) in itertools.pairwise(marks)}
    figures = {**seconds, "tracings_of_train_and_evaluate": tracings}
    importlib.import_module("common").report("start_up", ("part", "seconds"), list(seconds.items()), figures)


def train_and_evaluate(folder: Path, mark: Callable[[str], None]) -> list[int]:  # noqa: PLR0915  its imports count
    """Starts as train.py does; returns how often the step and the evaluation were traced for several calls."""
    import tensorflow as tf  # noqa: PLC0415  measured above, as all that is imported here
    from common import images_of_vocs_size, sgd_state, write_shards  # noqa: PLC0415

    from deeplab.data.input.augmentation import Augmentation  # noqa: PLC0415
    from deeplab.data.input.evaluation_batches import EvaluationBatches  # noqa: PLC0415
    from deeplab.data.input.settings import AugmentationSettings  # noqa: PLC0415
    from deeplab.model.deeplabv3 import build_to_train  # noqa: PLC0415
    from deeplab.model.inference import Predictor  # noqa: PLC0415
    from deeplab.model.settings import InitSettings, ModelConfig  # noqa: PLC0415
    from deeplab.trainer import Feed  # noqa: PLC0415
    from deeplab.training.evaluate_step import make_evaluate_step  # noqa: PLC0415
    from deeplab.training.losses import Loss  # noqa: PLC0415
    from deeplab.training.step import make_train_step  # noqa: PLC0415

    split = write_shards(folder, images_of_vocs_size(folder, 64))
    mark("(shards for this bench)")

    model, _ = build_to_train(ModelConfig(split.class_names), InitSettings(), has_weights=True, auxiliary_head=False)
    mark("build the model")

    state = sgd_state(model)
    strategy = tf.distribute.get_strategy()
    augmentation = Augmentation(AugmentationSettings(CROP))
    loss = Loss(split.num_classes)
    train: Any = make_train_step(strategy, state, loss, weight_decay=1e-4, finish=augmentation.finish)
    mark("optimizer")

    batches = Feed.make(strategy, split, augmentation, BATCH, seed=0, first_example=0).batches
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
    evaluate: Any = make_evaluate_step(strategy, Predictor(model), loss)
    whole_images = iter(EvaluationBatches(split).for_worker())
    for _ in range(3):
        evaluate(whole_images)
    return [function.experimental_get_tracing_count() for function in (train, evaluate)]


if __name__ == "__main__":
    main()
