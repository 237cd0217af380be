"""The cost of stopping and resuming: saving, finding the newest intact checkpoint, skipping half of a large epoch.

python bench/speed/resume.py [EXAMPLES]

ResNet-50 with SGD's momentum; shards of 10,000 records, each of a noisy 500x375 image of about 100 kB, as VOC's are.
Prints a table and a JSON line.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import sgd_state
from PIL import Image

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards import records
from deeplab.data.shards.split import Shard, Split
from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.run.checkpoints import Checkpoints

NUM_SHARDS = 16
BATCH = 16


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def write_shards(folder: Path, num_examples: int) -> Split:
    """Writes the same example many times; sizes and checksums are not checked here."""
    rng = np.random.default_rng(0)
    image = folder / "a.jpg"
    mask = folder / "a.png"
    Image.fromarray(rng.integers(80, 176, (375, 500, 3), np.uint8)).save(image, quality=80)
    Image.fromarray(np.zeros((375, 500), np.uint8)).save(mask)
    record = next(
        records.encode_examples(
            voc.Pair("a", str(image), str(mask)), records.Form(ClassTable.of_names(voc.CLASS_NAMES))
        )
    ).record
    names = [f"{index}.tfrecord" for index in range(NUM_SHARDS)]
    for name in names:
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for _ in range(num_examples // NUM_SHARDS):
                writer.write(record)
    shards = tuple(Shard(name, num_examples // NUM_SHARDS, 0, "") for name in names)
    print(f"{num_examples} records of {len(record) / 1e3:.0f} kB")
    return Split(folder, "train", voc.CLASS_NAMES, num_examples, 0, 375, 500, (), 0, "", shards)


def first_batch(split: Split, first_example: int) -> float:
    """Seconds from creating the chain to its first batch."""
    batches = training_batches(split, Augmentation(AugmentationSettings(513)), BATCH, 1, first_example)
    return seconds(lambda: next(batches.as_numpy_iterator()))


def main() -> None:
    """Both tables."""
    num_examples = int(sys.argv[1]) if sys.argv[1:] else 10_000
    facts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = sgd_state(build_deeplabv3(ModelConfig(voc.CLASS_NAMES)))
        checkpoints = Checkpoints(folder, folder, state)

        def save() -> None:
            state.advance(1, BATCH)
            checkpoints.save_latest()

        save()
        facts["save [s]"] = min(seconds(save) for _ in range(3))
        facts["check and restore [s]"] = min(seconds(checkpoints.restore_latest) for _ in range(3))
        facts["checkpoint [MB]"] = sum(path.stat().st_size for path in (folder / "latest").glob("ckpt-4.*")) / 1e6
        split = write_shards(folder, num_examples)
        first_batch(split, 0)
        facts["first batch of an epoch [s]"] = min(first_batch(split, 0) for _ in range(3))
        facts["first batch in its middle [s]"] = min(first_batch(split, num_examples // 2) for _ in range(3))
    print("| what | |\n| --- | --- |")
    for what, value in facts.items():
        print(f"| {what} | {value:.2f} |")
    print(json.dumps({"bench": "resume", "examples": num_examples, **facts}))


if __name__ == "__main__":
    main()
