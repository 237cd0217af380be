"""Processor time an image of the first start, which writes shards, and of a second, by the number of images.

python bench/speed/many.py [NUMBER...]        default 10000 40000

Images of 16x16 pixels, hard links to a few files. The peak is that of the process so far.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import peak_megabytes, report
from PIL import Image

from deeplab.data.shards.settings import ShardSettings
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


def main() -> None:
    """The table."""
    Progress.is_shown = False
    gc.freeze()  # as programs do
    rows: list[tuple[int, float, float, float, float, float, float]] = []
    for number in map(int, sys.argv[1:] or NUMBERS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_links(folder / "voc", number)

            def start(folder: Path = folder) -> float:
                begun = sum(os.times()[:4])
                prepare(ShardSettings(voc_dir=folder / "voc"), folder / "shards", "train", ("background", "one"))
                return sum(os.times()[:4]) - begun  # of this process and of those that wrote shards

            first = 1e6 * start() / number
            second = 1e6 * min(start() for _ in range(ROUNDS)) / number
            size = sum(path.stat().st_size for path in (folder / "shards").glob("train.*")) / number
        _, least_first, _, least_second, *_ = rows[0] if rows else (number, first, 1.0, second)
        rows.append((number, first, first / least_first, second, second / least_second, size, peak_megabytes()))
    header = (
        "images",
        "first start [us an image]",
        "of the first row",
        "second start [us an image]",
        "of the first row",
        "lists [bytes an image]",
        "peak [MB]",
    )
    figures: dict[str, object] = {f"second_start_us_{number}": second for number, _, _, second, *_ in rows}
    report("many", header, rows, figures)


if __name__ == "__main__":
    main()
