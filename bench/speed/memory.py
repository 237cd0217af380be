"""Peak memory of a training step, by batch size, and of the input chain, by the size of the data set.

python bench/speed/memory.py

Each figure is the peak resident set of a separate process; 513x513, ResNet-50, output stride 16, SGD.
"""

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import images_of_vocs_size, peak_megabytes, report, write_shards
from step import CROSS_ENTROPY, NUM_CLASSES, our_step

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards.split import Split
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3

CROP = 513
BATCHES = (0, 2, 4)
EXAMPLES = 90  # few enough that one process writes the shards


def of_training(batch_size: int) -> float:
    """Peak after two steps; for batch size 0, of only the model."""
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    if batch_size:
        rng = np.random.default_rng(0)
        shape = (batch_size, CROP, CROP)
        batch = {
            "image": tf.constant(rng.integers(0, 256, (*shape, 3), np.uint8)),
            "label": tf.constant(rng.integers(0, NUM_CLASSES, shape, np.uint8)),
        }
        our_step(model, batch, steps=2, loss=CROSS_ENTROPY)()
    return peak_megabytes() / 1024


def of_input(folder: Path) -> float:
    """Peak after reading 400 examples."""
    split = Split.read(folder, "train")
    for _ in training_batches(split, Augmentation(CROP), 8, seed=0).take(50):
        pass
    return peak_megabytes() / 1024


def main() -> None:
    """Gigabytes of each."""
    rows = []
    figures = {}
    with (
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
        tempfile.TemporaryDirectory() as name,
    ):
        for batch_size in BATCHES:
            figures[f"batch_{batch_size}"] = pool.apply(of_training, (batch_size,))
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
    main()
