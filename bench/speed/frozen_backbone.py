"""Seconds and memory of a training step with a frozen backbone, beside one that trains all.

python bench/speed/frozen_backbone.py

ResNet-50 at stride 16, 257x257, batch 8. Each measurement has a process of its own; the two variants take turns.
"""

import multiprocessing
import statistics
import time

import numpy as np
import tensorflow as tf
from common import peak_megabytes, ratio, report

from deeplab.model.deeplabv3 import backbone_of, build_to_train
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

BATCH = 8
CROP = 257
NUM_CLASSES = 21
ROUNDS = 2
STEPS = 3


def seconds_and_gigabytes(factor: float) -> tuple[float, float]:
    """Median seconds of a step after the first, and the peak of the process."""
    config = ModelConfig(tuple(map(str, range(NUM_CLASSES))))
    model, training_model = build_to_train(
        config, InitSettings("none"), has_weights=False, auxiliary_head=False, frozen_backbone=factor == 0
    )
    schedule = Schedule(ScheduleSettings("constant"), 0.001, 1, tf.Variable(1.0, trainable=False))
    settings = OptimizerSettings(backbone_learning_rate_factor=factor)
    variables = training_model.trainable_variables
    optimizer = make_optimizer(settings, schedule, variables, False, backbone_of(training_model).trainable_variables)
    state = TrainState(model, training_model, optimizer, schedule)
    train = make_train_step(tf.distribute.get_strategy(), state, Loss(NUM_CLASSES), weight_decay=settings.l2)

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (BATCH, CROP, CROP, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, (BATCH, CROP, CROP), np.uint8),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        float(train(batches, tf.constant(1)).losses["loss"])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), peak_megabytes() / 1024


def main() -> None:
    """A row for each factor, and the ratios of frozen to trained."""
    measured: dict[float, list[tuple[float, float]]] = {1.0: [], 0.0: []}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(ROUNDS):
            for factor, values in measured.items():
                values.append(pool.apply(seconds_and_gigabytes, (factor,)))
    seconds = {factor: [value[0] for value in values] for factor, values in measured.items()}
    peaks = {factor: [value[1] for value in values] for factor, values in measured.items()}
    rows = [(factor, statistics.median(seconds[factor]), statistics.median(peaks[factor])) for factor in measured]
    figures = {"seconds_frozen": ratio(seconds[0.0], seconds[1.0]), "peak_frozen": ratio(peaks[0.0], peaks[1.0])}
    report("frozen_backbone", ("factor", "seconds of a step", "peak GB"), rows, figures)


if __name__ == "__main__":
    main()
