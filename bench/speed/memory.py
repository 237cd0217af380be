"""Peak memory of a training step, by batch size, and of the input chain, by the size of the data set.

python bench/speed/memory.py
python bench/speed/memory.py recompute    only a step at batch 4, plain and with --recompute in turns

Each figure is the peak resident set of a separate process; 513x513, ResNet-50, output stride 16, SGD.
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import images_of_vocs_size, peak_megabytes, ratio, report, write_shards
from step import CROSS_ENTROPY, NUM_CLASSES, our_step

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards.split import Split
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.recomputation import RecomputedNetwork
from deeplab.model.settings import ModelConfig

CROP = 513
BATCHES = (0, 2, 4)
ROUNDS = 2
EXAMPLES = 90  # few enough that one process writes the shards


def of_training(batch_size: int, recompute: bool = False) -> tuple[float, float]:
    """Peak after three steps, and processor seconds of a step; for batch size 0, of only the model."""
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    if recompute:
        model = RecomputedNetwork(model.input, model.output)
    seconds = 0.0
    if batch_size:
        rng = np.random.default_rng(0)
        shape = (batch_size, CROP, CROP)
        batch = {
            "image": tf.constant(rng.integers(0, 256, (*shape, 3), np.uint8)),
            "label": tf.constant(rng.integers(0, NUM_CLASSES, shape, np.uint8)),
        }
        step = our_step(model, batch, loss=CROSS_ENTROPY)
        step()
        start = time.process_time()
        for _ in range(2):
            step()
        seconds = (time.process_time() - start) / 2
    return peak_megabytes() / 1024, seconds


def of_input(folder: Path) -> float:
    """Peak after reading 400 examples."""
    split = Split.read(folder, "train")
    for _ in training_batches(split, Augmentation(AugmentationSettings(CROP)), 8, seed=0).take(50):
        pass
    return peak_megabytes() / 1024


def compare_recomputation() -> None:
    """Gigabytes and processor seconds of a step, plain and recomputed in turns, less those of only the model."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        before, _ = pool.apply(of_training, (0,))
        measured: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for recompute, results in measured.items():
                peak, seconds = pool.apply(of_training, (BATCHES[-1], recompute))
                results.append((peak - before, seconds))
                rows.append(("--recompute" if recompute else "plain", *results[-1]))
    memory, time_taken = (
        ratio([each[index] for each in measured[True]], [each[index] for each in measured[False]]) for index in (0, 1)
    )
    rows.append(("ratio", memory, time_taken))
    report("recompute", ("step", "peak GB", "processor s"), rows, {"memory": memory, "time": time_taken})


def main() -> None:
    """Gigabytes of each."""
    rows = []
    figures = {}
    with (
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
        tempfile.TemporaryDirectory() as name,
    ):
        for batch_size in BATCHES:
            figures[f"batch_{batch_size}"] = pool.apply(of_training, (batch_size,))[0]
            rows.append(("training, batch", batch_size, figures[f"batch_{batch_size}"]))
        for times in (1, 10):
            folder = Path(name) / str(times)
            folder.mkdir()
            split = write_shards(folder, images_of_vocs_size(folder, times * EXAMPLES))
            figures[f"data_x{times}"] = pool.apply(of_input, (folder,))
            megabytes = sum(shard.num_bytes for shard in split.shards) / 1e6
            rows.append(
                (f"input chain, {megabytes:.0f} MB of shards, examples", times * EXAMPLES, figures[f"data_x{times}"])
            )
    report("memory", ("what", "number", "peak GB"), rows, figures)


if __name__ == "__main__":
    compare_recomputation() if sys.argv[1:] == ["recompute"] else main()
