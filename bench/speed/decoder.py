"""Cost of DeepLab v3+ compared with v3: parameters, arithmetic, memory and time of a training step and of a prediction.

python bench/speed/decoder.py [BACKBONE]

A batch of 4 crops of 321x321 in float32, at stride 16. The variants take turns, so that other load on the machine
affects all of them. FLOP and memory are those that `train.py` states at its start.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from common import ratio, report, sgd_state, take_turns

from deeplab.model.cost import activation_bytes, forward_flop
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step

CROP = 321
BATCH = 4
ROUNDS = 5
CLASS_NAMES = tuple("abcdefghijk")
VARIANTS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v3, separable ASPP": {"separable_aspp": True},
    "v3+": {"decoder": True},
    "v3+, separable": {"decoder": True, "separable_decoder": True, "separable_aspp": True},
}


def main() -> None:
    """Prints the table."""
    backbone = sys.argv[1] if len(sys.argv) > 1 else "mobilenet_v2"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, CROP, CROP, 3)).astype(np.uint8)
    labels = rng.integers(0, len(CLASS_NAMES), (BATCH, CROP, CROP)).astype(np.uint8)
    batches = iter(tf.data.Dataset.from_tensors({"image": images, "label": labels}).repeat())
    models = {}
    runs = {}
    for name, choices in VARIANTS.items():
        model = build_deeplabv3(ModelConfig(CLASS_NAMES, backbone, **choices))
        step = make_train_step(tf.distribute.get_strategy(), sgd_state(model), Loss(len(CLASS_NAMES)))
        predict = tf.function(functools.partial(model, training=False))
        models[name] = model
        runs[f"{name} train"] = timed(lambda step: step(batches, tf.constant(1)).losses["loss"], step)
        runs[f"{name} predict"] = timed(lambda predict: predict(tf.constant(images)), predict)
    seconds = take_turns(runs, ROUNDS)
    rows = []
    figures = {}
    for name, model in models.items():
        of_training = ratio(seconds[f"{name} train"], seconds["v3 train"])
        of_prediction = ratio(seconds[f"{name} predict"], seconds["v3 predict"])
        figures[name] = {"train": of_training, "predict": of_prediction}
        rows.append(
            (
                name,
                f"{model.count_params() / 1e6:.2f} M",
                f"{forward_flop(model, CROP) / 1e9:.1f}",
                f"{activation_bytes(model, CROP) / 1e6:.0f} MB",
                f"{of_training:.2f}",
                f"{of_prediction:.2f}",
            )
        )
    header = ("network", "parameters", "GFLOP per image", "kept per image", "training step", "prediction")
    report("decoder", header, rows, figures)


def timed(run: Callable[[Callable], tf.Tensor], compiled: Callable) -> Callable[[], float]:
    """A function that calls `run` with the compiled function, waits for the result and returns the seconds."""

    def measure() -> float:
        start = time.perf_counter()
        run(compiled).numpy()
        return time.perf_counter() - start

    return measure


if __name__ == "__main__":
    main()
