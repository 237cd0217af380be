"""Images/s of evaluation at native size beside model.predict, and what averaging over scales costs by its pixels.

python bench/evaluation.py

Batches of two 375x500 images; the variants take turns.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from common import ratio, report, take_turns
from step import CROSS_ENTROPY, NUM_CLASSES

from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3
from deeplab.model.inference import Inference, make_predictor
from deeplab.training.step import make_evaluate_function

HEIGHT, WIDTH, BATCH = 375, 500, 2
SCALES = (0.75, 1.0, 1.25)
ROUNDS = 2


def main() -> None:
    """Rates, and the time per pixel that the network sees."""
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), np.uint8)
    batch = {
        "image": tf.constant(images),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH), np.uint8)),
        "is_example": tf.ones([BATCH], tf.int64),
    }

    def ours(inference: Inference) -> Callable[[], float]:
        evaluate = make_evaluate_function(tf.distribute.get_strategy(), make_predictor(model, inference), CROSS_ENTROPY)
        return timed(lambda: np.asarray(evaluate(batch)[1]))

    rates = take_turns(
        {
            "ours": ours(Inference()),
            "model.predict": timed(lambda: model.predict(images, batch_size=BATCH, verbose=0)),
            "ours, three scales, mirrored": ours(Inference(SCALES, flip=True)),
        },
        ROUNDS,
    )
    pixels = 2 * sum(scale**2 for scale in SCALES)
    rows = [(name, statistics.median(values), ratio(values, rates["model.predict"])) for name, values in rates.items()]
    figures: dict[str, object] = {
        "ours_over_predict": ratio(rates["ours"], rates["model.predict"]),
        "scales_time_over_pixels": ratio(rates["ours"], rates["ours, three scales, mirrored"]) / pixels,
    }
    report("evaluation", ("what", "images/s", "of model.predict"), rows, figures)


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """A function that gives the images/s of one call."""

    def measure() -> float:
        start = time.perf_counter()
        run()
        return BATCH / (time.perf_counter() - start)

    return measure


if __name__ == "__main__":
    main()
