"""What stopping and going on costs: saving, finding the newest whole checkpoint, and skipping half of a large epoch.

python bench/resume.py [EXAMPLES]

ResNet-50 with SGD's momentum; shards of 10,000 records, each of a noisy 500x375 image of about 100 kB, as VOC's are.
Prints a table and a JSON line.
"""

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from deeplab.data.manifest import Manifest, Shard
from deeplab.training.checkpoint import Checkpoints, TrainingState
from deeplab.training.schedules import Schedule, make_optimizer
from PIL import Image

from deeplab.data import pipeline, tfrecord, voc
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3

NUM_SHARDS = 16
BATCH = 16


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def write_shards(folder: Path, num_examples: int) -> Manifest:
    """The same example many times; sizes and checksums are not looked at here."""
    rng = np.random.default_rng(0)
    image, mask = folder / "a.jpg", folder / "a.png"
    Image.fromarray(rng.integers(80, 176, (375, 500, 3), np.uint8)).save(image, quality=80)
    Image.fromarray(np.zeros((375, 500), np.uint8)).save(mask)
    record, _ = tfrecord.encode_example(voc.Pair("a", image, mask), 21)
    names = [f"{index}.tfrecord" for index in range(NUM_SHARDS)]
    for name in names:
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for _ in range(num_examples // NUM_SHARDS):
                writer.write(record)
    shards = tuple(Shard(name, num_examples // NUM_SHARDS, 0, "") for name in names)
    print(f"{num_examples} records of {len(record) / 1e3:.0f} kB")
    return Manifest(0, "train", voc.CLASS_NAMES, num_examples, 0, 375, 500, (), 0, "", shards)


def first_batch(folder: Path, manifest: Manifest, first_example: int) -> float:
    """Seconds from nothing to the first batch."""
    batches = pipeline.training_batches(folder, manifest, pipeline.Augmentation(513), BATCH, 1, first_example)
    return seconds(lambda: next(batches.as_numpy_iterator()))


def main() -> None:
    """Both tables."""
    num_examples = int(sys.argv[1]) if sys.argv[1:] else 10_000
    facts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_deeplabv3(ModelConfig(voc.CLASS_NAMES))
        scale = tf.Variable(1.0)
        schedule = Schedule("constant", 0.1, 1, 0, scale)
        optimizer = make_optimizer("sgd", schedule, 0.9, 0.0, model.trainable_variables, loss_scaling=False)
        checkpoints = Checkpoints(folder, folder, model, model, optimizer, scale, TrainingState())
        checkpoints.save_latest(1)
        facts["save [s]"] = min(seconds(functools.partial(checkpoints.save_latest, step)) for step in (2, 3, 4))
        facts["check and restore [s]"] = min(seconds(checkpoints.restore_latest) for _ in range(3))
        facts["checkpoint [MB]"] = sum(path.stat().st_size for path in (folder / "latest").glob("ckpt-4.*")) / 1e6
        manifest = write_shards(folder, num_examples)
        first_batch(folder, manifest, 0)
        facts["first batch of an epoch [s]"] = min(first_batch(folder, manifest, 0) for _ in range(3))
        facts["first batch in its middle [s]"] = min(first_batch(folder, manifest, num_examples // 2) for _ in range(3))
    print("| what | |\n| --- | --- |")
    for what, value in facts.items():
        print(f"| {what} | {value:.2f} |")
    print(json.dumps({"bench": "resume", "examples": num_examples, **facts}))


if __name__ == "__main__":
    main()
