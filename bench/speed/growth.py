"""Seconds of a training step per image, and of the first step with its tracing, as crop, batch and replicas grow.

python bench/speed/growth.py

Each number of replicas runs in its own process, since logical devices can be created only once; the base is 257x257,
batch 4, 21 classes, one replica. Replicas share the same cores, so the extra time of more replicas is their overhead.
"""

import multiprocessing
import time

import keras
import numpy as np
import tensorflow as tf
from common import report, sgd_state

from deeplab.distribute.devices import make_strategy
from deeplab.distribute.settings import DeviceSettings
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step

BASE = {"crop": 257, "batch": 4, "classes": 21, "replicas": 1}
GROWTH = {"crop": (257, 385, 513, 769), "batch": (1, 4, 8), "classes": (21, 150), "replicas": (1, 2, 4)}


def seconds_of_steps(crop: int, batch: int, classes: int, replicas: int) -> tuple[float, float]:
    """Seconds of the first step, with tracing and graph optimisation, and of the second, per image."""
    strategy = make_strategy(DeviceSettings(num_gpus=0, num_cpu_replicas=replicas))
    rng = np.random.default_rng(0)
    examples = {
        "image": rng.integers(0, 256, (batch, crop, crop, 3), np.uint8),
        "label": rng.integers(0, classes, (batch, crop, crop), np.uint8),
    }
    with strategy.scope():
        model = build_deeplabv3(ModelConfig(tuple(map(str, range(classes)))))
        state = sgd_state(model)
    train = make_train_step(strategy, state, Loss(classes))
    data = tf.data.Dataset.from_tensors(examples).cache().repeat().unbatch().batch(batch, drop_remainder=True)
    batches = iter(strategy.experimental_distribute_dataset(data))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        float(train(batches, tf.constant(1)).losses["loss"])
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1] / batch


def measure(settings: list[dict[str, int]]) -> list[tuple[float, float]]:
    """Measures one setting after another, all with the same number of replicas."""
    seconds = []
    for setting in settings:
        seconds.append(seconds_of_steps(**setting))
        keras.backend.clear_session()
    return seconds


def main() -> None:
    """Seconds of each setting, and per pixel relative to the base."""
    settings = {(name, value): BASE | {name: value} for name, values in GROWTH.items() for value in values}
    for setting in settings.values():
        if setting["crop"] > 513:
            setting["batch"] = 1
    seconds: dict[tuple[int, ...], tuple[float, float]] = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for replicas in GROWTH["replicas"]:
            alike = {tuple(each.values()): each for each in settings.values() if each["replicas"] == replicas}
            seconds |= zip(alike, pool.apply(measure, [list(alike.values())]), strict=True)
    rows = []
    figures = {}
    for (name, value), setting in settings.items():
        first, per_image = seconds[tuple(setting.values())]
        per_pixel = per_image / seconds[tuple(BASE.values())][1] * (BASE["crop"] / setting["crop"]) ** 2
        rows.append((name, value, per_image, per_pixel, first))
        figures[f"{name}_{value}"] = per_pixel
    header = ("what grows", "to", "seconds per image", "per pixel, of the base's", "first step with tracing [s]")
    report("growth", header, rows, figures)


if __name__ == "__main__":
    main()
