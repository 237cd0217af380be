"""Cost of the all-reduce: its share of a step, measured on this CPU, and calculated for clusters of GPUs.

python bench/speed/all_reduce.py

Measured: ResNet-50 at stride 16 on 129x129 images, one image per replica, 1, 2 and 4 logical CPU devices; the whole
step, and only the sum of its gradients. Calculated: a ring moves 2 (n - 1) / n times the gradient's bytes through each
link. A step waits for the whole sum, which starts after the end of the backward pass: nothing overlaps.
Prints tables and a JSON line.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from common import sgd_state

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step

REPLICAS = (1, 2, 4)
ROUNDS = 5
SIZE = 129
STEP_SECONDS = {"published": 0.85, "assumed": 0.1}
"""On a single GPU. Published: 2 images of 1024x512 on a V100, DeepLabV3+ with ResNet-101 at stride 8 in float32
(the model_zoo.md of mmsegmentation, "Training speed"). Assumed: a GPU that is several times as fast."""
GPUS = (1, 2, 4, 8, 16, 32, 64)
LINKS = {"NVLink, 300 GB/s": 300e9, "PCIe 4.0 x16, 25 GB/s": 25e9, "100 Gb/s Ethernet, 11 GB/s": 11e9}


def timed(function: Callable[[], None]) -> float:
    """Median seconds of `ROUNDS` calls after a warm-up call."""
    function()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(num_replicas: int) -> tuple[float, float, int]:
    """Seconds per whole step, seconds per sum of its gradients, bytes of the gradients."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas)
    keras.utils.set_random_seed(1)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(num_replicas)])
    with strategy.scope():
        model = build_deeplabv3(ModelConfig(tuple(map(str, range(21)))))
        state = sgd_state(model)
    train = make_train_step(strategy, state, Loss(21), weight_decay=1e-4)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (num_replicas, SIZE, SIZE, 3), np.uint8),
        "label": rng.integers(0, 21, (num_replicas, SIZE, SIZE), np.uint8),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    batches = iter(
        strategy.distribute_datasets_from_function(lambda context: dataset.rebatch(1).prefetch(tf.data.AUTOTUNE))
    )
    gradients = strategy.run(lambda: [tf.ones(variable.shape) for variable in model.trainable_variables])

    @tf.function
    def add(values: list[tf.Tensor]) -> tf.Tensor:
        def replica(values: list[tf.Tensor]) -> tf.Tensor:
            on_device = [tf.identity(value) for value in values]
            sums = tf.distribute.get_replica_context().all_reduce("SUM", on_device)
            return tf.add_n(
                [tf.reshape(value, [-1])[0] for value in sums]
            )  # uses all of them, so that none is optimised away

        return strategy.run(replica, args=(values,))

    num_bytes = 4 * sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)

    def one_step() -> None:
        train(batches, tf.constant(1)).losses["loss"].numpy()

    def one_sum() -> None:
        strategy.experimental_local_results(add(gradients))[0].numpy()

    return timed(one_step), timed(one_sum), num_bytes


def ring_seconds(num_bytes: int, num_gpus: int, bytes_per_second: float) -> float:
    """Time of a ring all-reduce that is limited by its links' bandwidth; latency is not counted."""
    return 2 * (num_gpus - 1) / num_gpus * num_bytes / bytes_per_second


def main() -> None:
    """Both tables."""
    shares = {}
    num_bytes = 0
    print("replicas  step [ms]  all-reduce [ms]  share")
    for num_replicas in REPLICAS:
        # Strategies of different sizes cannot share a process.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            step, reduced, num_bytes = pool.submit(measure, num_replicas).result()
        shares[num_replicas] = reduced / step
        print(f"{num_replicas:8}  {1000 * step:9.0f}  {1000 * reduced:15.0f}  {100 * shares[num_replicas]:4.1f} %")
        sys.stdout.flush()
    steps = " and ".join(f"{seconds} s ({name})" for name, seconds in STEP_SECONDS.items())
    print(
        f"\ngradient: {num_bytes / 1e6:.1f} MB; ring all-reduce [ms] after the backward pass, and the share of the time"
    )
    print(f"left for computing, if a step on one GPU takes {steps}")
    print("GPUs  " + "  ".join(f"{name:>28}" for name in LINKS))
    for num_gpus in GPUS:
        cells = []
        for bandwidth in LINKS.values():
            seconds = ring_seconds(num_bytes, num_gpus, bandwidth)
            shares_left = (f"{100 * step / (step + seconds):.0f} %" for step in STEP_SECONDS.values())
            cells.append(f"{1000 * seconds:.1f} ms, {', '.join(shares_left)}".rjust(28))
        print(f"{num_gpus:4}  " + "  ".join(cells))
    print(json.dumps({"bench": "all_reduce", "share_of_step": shares, "gradient_bytes": num_bytes}))


if __name__ == "__main__":
    main()
