"""Processor time an image of the first start, which writes shards, and of a second, by the number of images.

Beside the second start, what the system alone takes for a bare loop over the same files that asks for their sizes and
times. And how much later the first batch comes if a run resumes at the end of an epoch than if it starts.

python bench/speed/many.py [NUMBER...]        default 10000 40000

Images of 16x16 pixels, hard links to a few files. The peak is that of the process so far.
"""

import gc
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import peak_megabytes, report
from PIL import Image

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import prepare
from deeplab.data.source.voc import IMAGE_FOLDER, MASK_FOLDER
from deeplab.progress import Progress

NUMBERS = ("10000", "40000")
ROUNDS = 3
LINKS = 50_000
"""To one file: ext4 allows 65,000."""


def write_links(folder: Path, number: int) -> None:
    """A data set in VOC's layout, in the split `train`."""
    for name in (IMAGE_FOLDER, MASK_FOLDER, "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for index in range(number):
        if index % LINKS == 0:
            (folder / "image.jpg").unlink(missing_ok=True)
            (folder / "mask.png").unlink(missing_ok=True)
            Image.new("RGB", (16, 16)).save(folder / "image.jpg")
            Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 2).save(folder / "mask.png")
        os.link(folder / "image.jpg", folder / IMAGE_FOLDER / f"{index:06d}.jpg")
        os.link(folder / "mask.png", folder / MASK_FOLDER / f"{index:06d}.png")
    names = "".join(f"{index:06d}\n" for index in range(number))
    (folder / "ImageSets/Segmentation/train.txt").write_text(names, encoding="ascii")


def processor_seconds() -> float:
    """Of this process and of those that wrote shards; `os.times` counts in hundredths."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def seconds_of_stat(voc_dir: Path) -> float:
    """Of the processor, to ask for the sizes and times of all images and masks."""
    paths = [
        f"{voc_dir / folder}/{name}"
        for folder in (IMAGE_FOLDER, MASK_FOLDER)
        for name in os.listdir(voc_dir / folder)  # noqa: PTH208
    ]
    begun = processor_seconds()
    for path in paths:
        os.stat(path)  # noqa: PTH116
    return processor_seconds() - begun


def seconds_to_first_batch(split: Split, first_example: int) -> float:
    """By the clock, of a run that has seen so many examples."""
    begun = time.perf_counter()
    next(iter(training_batches(split, Augmentation(AugmentationSettings(17)), 16, seed=1, first_example=first_example)))
    return time.perf_counter() - begun


def main() -> None:
    """The table."""
    Progress.is_shown = False
    gc.freeze()  # as programs do
    rows: list[tuple[int, float, float, float, float, float, float, float, float]] = []
    for number in map(int, sys.argv[1:] or NUMBERS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_links(folder / "voc", number)

            def start(folder: Path = folder) -> float:
                begun = processor_seconds()
                prepare(ShardSettings(voc_dir=folder / "voc"), folder / "shards", "train", ("background", "one"))
                return processor_seconds() - begun

            first = 1e6 * start() / number
            second = 1e6 * min(start() for _ in range(ROUNDS)) / number
            stat = 1e6 * min(seconds_of_stat(folder / "voc") for _ in range(ROUNDS)) / number
            split = Split.read(folder / "shards", "train")
            later = [
                seconds_to_first_batch(split, number - 16) - seconds_to_first_batch(split, 0) for _ in range(ROUNDS)
            ]
            size = sum(path.stat().st_size for path in (folder / "shards").glob("train.*")) / number
        _, least_first, _, least_second, *_ = rows[0] if rows else (number, first, 1.0, second)
        per_image = (first, first / least_first, second, second / least_second, stat, size)
        rows.append((number, *per_image, statistics.median(later), peak_megabytes()))
    header = (
        "images",
        "first start [us an image]",
        "of the first row",
        "second start [us an image]",
        "of the first row",
        "of it, stat alone",
        "lists [bytes an image]",
        "resumed, first batch later by [s]",
        "peak [MB]",
    )
    figures: dict[str, object] = {f"second_start_us_{number}": second for number, _, _, second, *_ in rows}
    report("many", header, rows, figures)


if __name__ == "__main__":
    main()
