"""Mutated bytes of shards, manifests, masks and images: reading gives the original or an error, never other data.

python bench/checks/fuzz.py [MUTATIONS] [SEED]        mutations of each kind; defaults 3,000 and 0

A mutation flips bits, cuts, zeroes, removes, repeats or inserts bytes. JPEG has no checksum, so a changed file may be a
different picture to every decoder; for JPEG, an error or a picture of the right size is correct. Ten seconds without a
result count as a hang. Prints a table and a JSON line; exit status 1 for any other outcome.
"""

import json
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards import records
from deeplab.data.shards.split import Split, name_damaged_shard
from deeplab.data.shards.write import ShardSettings, prepare
from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.masks import read_mask
from deeplab.errors import DataError
from deeplab.labels import palette

NAMES = ("background", "one", "two")


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One to three random changes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) or 1)
        end = start + rng.choice((1, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[start:]
        elif kind == 2:
            changed[start:end] = bytes(len(changed[start:end]))
        elif kind == 3:
            del changed[start:end]
        elif kind == 4:
            changed[start:start] = changed[start:end]
        else:
            changed[start:start] = rng.randbytes(end - start)
    return bytes(changed)


def write_voc(voc_dir: Path, rng: np.random.Generator) -> None:
    """Four small images with masks."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc_dir / part).mkdir(parents=True)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(voc_dir / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30)))
        mask.putpalette(palette().tobytes())
        mask.save(voc_dir / "SegmentationClass" / f"{name}.png")
    (voc_dir / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\nd\n")


def survey(path: Path, read: Callable[[], object], number: int, rng: random.Random) -> Counter[str]:
    """How many mutations of a file were refused, read as the original, or read as something else."""
    original = path.read_bytes()
    expected = read()
    outcomes: Counter[str] = Counter()
    for _ in range(number):
        changed = mutate(original, rng)
        path.write_bytes(changed)
        signal.alarm(10)
        try:
            outcome = "original" if read() == expected else "other"
        except DataError:
            outcome = "refused"
        finally:
            signal.alarm(0)
        if outcome == "other":
            print(f"{path.name}: other data after a mutation: {changed!r}"[:300], file=sys.stderr)
        outcomes[outcome] += 1
    path.write_bytes(original)
    return outcomes


def main() -> None:
    """Runs all four kinds."""
    number, seed = (int(text) for text in (sys.argv[1:] + ["3000", "0"][len(sys.argv) - 1 :]))
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_voc(folder / "voc", np.random.default_rng(seed))
        prepare(ShardSettings(voc_dir=folder / "voc", num_shards=1), folder, "train", NAMES)
        (pair, *_) = voc.pairs(folder / "voc", "train")
        classes = ClassTable.of_names(NAMES)

        def read_shards() -> list[tuple[bytes, ...]]:
            split = Split.read(folder, "train")
            with name_damaged_shard([split]):
                batches = EvaluationBatches(split, max_images=1, max_pixels=1).for_worker().take(split.num_examples)
                return [
                    (*batch["name"], batch["image"].tobytes(), batch["label"].tobytes())
                    for batch in batches.as_numpy_iterator()
                ]

        def read_labels() -> bytes:
            return read_mask(pair.mask, classes).labels.tobytes()

        def read_image() -> tuple[int, ...]:
            record = records.encode_example(pair, classes).record
            image, _ = records.decode_example(records.parse_example(record))
            return tuple(image.shape)

        kinds: dict[str, tuple[Path, Callable[[], object]]] = {
            "shard": (folder / "train-00000-of-00001.tfrecord", read_shards),
            "manifest": (folder / "train.json", lambda: Split.read(folder, "train")),
            "mask (PNG)": (pair.mask, read_labels),
            "image (JPEG)": (pair.image, read_image),
        }
        results = {kind: survey(path, read, number, rng) for kind, (path, read) in kinds.items()}
    print("| bytes of | mutations | refused | read as the original | read as something else |")
    print("| --- | --- | --- | --- | --- |")
    for kind, outcomes in results.items():
        print(f"| {kind} | {number:,} | {outcomes['refused']:,} | {outcomes['original']:,} | {outcomes['other']:,} |")
    print(json.dumps({"bench": "fuzz", "outcomes": results}))
    sys.exit(any(outcomes["other"] for outcomes in results.values()))


if __name__ == "__main__":
    main()
