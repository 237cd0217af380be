"""Images/s and memory of training and evaluation on this machine's GPUs, and the kernels that take the time.

bench/gpu.sh calls it. `bench/gpu.sh --on_cpus` tries the script itself on two CPU replicas, with a small network
and small crops.

ResNet-50 at stride 16, 513x513 crops, 21 classes; evaluation of 500x375 images, or of 50 sizes, whose "start" is the
first pass. Each row runs in its own process, so
that one that runs out of memory does not end the others. No row starts after ten minutes.
"""

import argparse
import collections
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from common import HEIGHT, WIDTH, images_of_vocs_size, sgd_state, write_shards
from profile_step import operation_seconds
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards.split import Split
from deeplab.distribute.devices import make_strategy
from deeplab.distribute.gpus import untimed_algorithms
from deeplab.distribute.numerics import set_precision
from deeplab.distribute.settings import DeviceSettings, PrecisionSettings
from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm, unsynchronize_batch_norm
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig
from deeplab.training.evaluate_step import make_evaluate_step
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step

NUM_CLASSES = 21
STEPS_PER_CALL = 10
EXAMPLES = 64
TIME_LIMIT = 600  # seconds
ROW_LIMIT = 300  # seconds
SHOWN_KERNELS = 15

EVALUATION = "evaluation"
SIZES = "evaluation of 50 sizes"
LAYOUT_OFF = "layout optimizer off"
TIMED = "algorithms timed"
NUM_SIZES = 50

NORMALIZATION = {
    "synchronised": lambda model: None,
    "own": unsynchronize_batch_norm,
    "frozen": freeze_batch_norm,
}


@dataclass(frozen=True)
class Row:
    """One measurement; `batch` is per replica."""

    replicas: int = 1
    batch: int = 8
    precision: str = "bfloat16"
    normalization: str = "synchronised"
    work: str = "training"
    source: str = "memory"
    variant: str = ""
    is_profiled: bool = False
    on_cpus: bool = False

    @property
    def crop(self) -> int:
        """Height and width of training crops."""
        return 65 if self.on_cpus else 513

    @property
    def seconds(self) -> float:
        """How long to measure, at least."""
        return 1.0 if self.on_cpus else 8.0


def rows(num_replicas: int, on_cpus: bool) -> list[Row]:
    """What to measure, the most interesting first."""
    base = Row(on_cpus=on_cpus, batch=2 if on_cpus else 8)
    found = [replace(base, is_profiled=True), replace(base, precision="float32")]
    if num_replicas > 1:
        several = replace(base, replicas=num_replicas)
        found += [several, replace(several, normalization="own"), replace(several, source="shards")]
    found += [
        replace(base, source="shards"),
        replace(base, work=EVALUATION, batch=1),
        replace(base, work=EVALUATION),
        replace(base, normalization="frozen"),
        replace(base, batch=2 * base.batch),
        replace(base, batch=max(base.batch // 4, 1)),
        replace(base, precision="float16"),
        replace(base, precision="float32", variant=LAYOUT_OFF),
        *(replace(base, work=SIZES, batch=1, precision="float32", variant=variant) for variant in ("", TIMED)),
    ]
    if num_replicas > 2:
        found.append(replace(base, replicas=2))
    return found


def measure(row: Row, shards: Path) -> dict[str, Any]:
    """Runs one row: `images` per second, `start` in seconds, `memory` in GiB of the first GPU, `profile` as text."""
    devices = DeviceSettings(num_gpus=0, num_cpu_replicas=row.replicas) if row.on_cpus else DeviceSettings(row.replicas)
    strategy = make_strategy(devices)
    set_precision(PrecisionSettings(row.precision))
    if row.variant == LAYOUT_OFF:
        tf.config.optimizer.set_experimental_options({"layout_optimizer": False})
    with strategy.scope():
        backbone = "mobilenet_v2" if row.on_cpus else "resnet50"
        model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES))), backbone))
        NORMALIZATION[row.normalization](model)
        predict = Predictor(model)
        state = sgd_state(model, loss_scaling=row.precision == "float16")
    batches = _batches(row, strategy, shards)
    steps = NUM_SIZES if row.work == SIZES else STEPS_PER_CALL
    if row.work in (EVALUATION, SIZES):
        evaluate = make_evaluate_step(strategy, predict, Loss(NUM_CLASSES))

        def run() -> object:
            with contextlib.nullcontext() if row.variant == TIMED else untimed_algorithms():
                return [evaluate(batches)[0].confusion for _ in range(steps)][-1].numpy()
    else:
        augmentation = Augmentation(AugmentationSettings(row.crop))
        train = make_train_step(strategy, state, Loss(NUM_CLASSES), weight_decay=1e-4, finish=augmentation.finish)

        def run() -> object:
            return train(batches, tf.constant(STEPS_PER_CALL)).confusion.numpy()

    start = time.perf_counter()
    run()
    result: dict[str, Any] = {"start": time.perf_counter() - start}
    result["images"] = row.replicas * row.batch * steps / _seconds(run, row.seconds)
    if not row.on_cpus:
        result["memory"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    if row.is_profiled:
        result["profile"] = _profile(run)
    return result


def _batches(row: Row, strategy: tf.distribute.Strategy, shards: Path) -> Iterator:
    """Endless batches: of a split's shards, or one that stays in memory."""
    global_batch_size = row.replicas * row.batch

    def of_shards(context: tf.distribute.InputContext) -> tf.data.Dataset:
        split = Split.read(shards, "train")
        return training_batches(
            split, Augmentation(AugmentationSettings(row.crop)), global_batch_size, seed=1, context=context
        )

    size = (row.crop, row.crop) if row.work == "training" else (HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (row.batch, *size, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, (row.batch, *size), np.uint8),
        "shifts": np.full((row.batch, 3), 0.1, np.float32),
        "is_example": np.ones(row.batch, np.int64),
    }

    def narrower(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The batch less some of its columns, as many as the number says."""
        left = WIDTH - tf.cast(pixels, tf.int32)
        narrow = {name: tf.constant(batch[name])[:, :, :left] for name in ("image", "label")}
        return {**batch, **narrow}

    in_memory = tf.data.Dataset.from_tensors(batch).repeat()
    if row.work == SIZES:
        in_memory = tf.data.Dataset.range(NUM_SIZES).map(narrower).repeat()
    make = of_shards if row.source == "shards" else lambda context: in_memory
    return iter(strategy.distribute_datasets_from_function(make))


def _seconds(run: Callable[[], object], at_least: float) -> float:
    """Seconds per call, over at least this many seconds."""
    start = time.perf_counter()
    calls = 0
    while time.perf_counter() - start < at_least:
        run()
        calls += 1
    return (time.perf_counter() - start) / calls


def _profile(run: Callable[[], object]) -> str:
    """The kernels of the first GPU that took most of a call, or the CPU's operations: lines of share and name."""
    with tempfile.TemporaryDirectory() as logdir:
        with tf.profiler.experimental.Profile(logdir):
            run()
        seconds = _kernel_seconds(logdir) or operation_seconds(logdir)
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:SHOWN_KERNELS]
    return "\n".join(f"{spent / total:6.1%}  {name[:100]}" for name, spent in largest)


def _kernel_seconds(logdir: str) -> dict[str, float]:
    space = xplane_pb2.XSpace.FromString(next(Path(logdir).rglob("*.xplane.pb")).read_bytes())
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in space.planes:
        if plane.name == "/device:GPU:0":
            for line in (line for line in plane.lines if "Stream" in line.name):
                for event in line.events:
                    seconds[plane.event_metadata[event.metadata_id].name] += event.duration_ps / 1e12
    return seconds


def _in_a_process(row: Row, shards: Path) -> dict[str, Any]:
    """As `measure`, in a process of its own, which may die or hang without an end of the others."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(_safely, (row, shards)).get(ROW_LIMIT)
        except multiprocessing.TimeoutError:
            return {"error": f"no result after {ROW_LIMIT} s"}


def _safely(row: Row, shards: Path) -> dict[str, Any]:
    """As `measure`; an error, such as too little memory, is a result."""
    try:
        return measure(row, shards)
    except Exception as error:  # whatever TensorFlow raises is what the table has to show
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"}


def main() -> None:
    """A table row by row, the shares that follow from it, and a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on_cpus", action="store_true", help="try the script itself, without a GPU")
    on_cpus = parser.parse_args().on_cpus
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus and not on_cpus:
        parser.error("TensorFlow sees no GPU here; --on_cpus tries the script on CPUs")
    # This process only draws images; TensorFlow would take the memory of all GPUs for it.
    tf.config.set_visible_devices([], "GPU")
    deadline = time.monotonic() + TIME_LIMIT
    measured: dict[Row, dict[str, Any]] = {}
    print("| work | replicas | batch each | precision | normalisation | from | images/s | GiB | start, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        shards = Path(name)
        write_shards(shards, images_of_vocs_size(shards, EXAMPLES))
        for row in rows(2 if on_cpus else gpus, on_cpus):
            if time.monotonic() > deadline:
                print("\nThe time is up: the other rows were left out.")
                break
            result = measured[replace(row, is_profiled=False)] = _in_a_process(row, shards)
            cells = [row.work, row.replicas, row.batch, row.precision, row.normalization, row.source]
            cells[0] = f"{row.work}, {row.variant}" if row.variant else row.work
            cells += [result.get("error") or f"{result['images']:.1f}"]
            cells += [f"{result[each]:.1f}" if each in result else "-" for each in ("memory", "start")]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    _print_shares({row: result["images"] for row, result in measured.items() if "images" in result})
    for row, result in measured.items():
        if "profile" in result:
            print(f"\nShares of the time of {row.replicas} replica, {row.precision}, batch {row.batch}:\n")
            print(result["profile"])


def _print_shares(rates: dict[Row, float]) -> None:
    """What follows from pairs of rows that differ in one thing."""
    print()
    for row, rate in rates.items():
        if row.source == "shards" and (fed := rates.get(replace(row, source="memory"))):
            print(f"input, {row.replicas} replicas: {max(0.0, 1 - rate / fed):.0%} of the time of a step")
        if row.normalization != "synchronised" and (base := rates.get(replace(row, normalization="synchronised"))):
            print(f"{row.normalization} statistics, {row.replicas} replicas: {rate / base:.2f} times as many images/s")
        if row.replicas > 1 and (one := rates.get(replace(row, replicas=1))):
            print(f"{row.replicas} replicas, {row.source}: {rate / one:.2f} times the images/s of one")


if __name__ == "__main__":
    main()
