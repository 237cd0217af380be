"""Processor time an image of a second start, with nothing changed, by the number of images.

python bench/speed/many.py [NUMBER...]        default 10000 40000

Images of 16x16 pixels, all hard links to one file.
"""

import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import report
from PIL import Image

from deeplab.data.shards.write import ShardSettings, prepare
from deeplab.data.source.voc import IMAGE_FOLDER, MASK_FOLDER
from deeplab.progress import Progress

NUMBERS = ("10000", "40000")
ROUNDS = 3


def write_links(folder: Path, number: int) -> None:
    """A data set in VOC's layout, in the split `train`."""
    for name in (IMAGE_FOLDER, MASK_FOLDER, "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "image.jpg")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 2).save(folder / "mask.png")
    for index in range(number):
        os.link(folder / "image.jpg", folder / IMAGE_FOLDER / f"{index:06d}.jpg")
        os.link(folder / "mask.png", folder / MASK_FOLDER / f"{index:06d}.png")
    names = "".join(f"{index:06d}\n" for index in range(number))
    (folder / "ImageSets/Segmentation/train.txt").write_text(names, encoding="ascii")


def main() -> None:
    """The table."""
    Progress.is_shown = False
    gc.freeze()  # as programs do
    rows: list[tuple[int, float, float, float]] = []
    for number in map(int, sys.argv[1:] or NUMBERS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_links(folder / "voc", number)

            def start(folder: Path = folder) -> float:
                begun = time.process_time()
                prepare(ShardSettings(voc_dir=folder / "voc"), folder / "shards", "train", ("background", "one"))
                return time.process_time() - begun

            start()
            second = 1e6 * min(start() for _ in range(ROUNDS)) / number
            size = sum(path.stat().st_size for path in (folder / "shards").glob("train.*")) / number
        rows.append((number, second, second / rows[0][1] if rows else 1.0, size))
    figures: dict[str, object] = {f"second_start_us_{number}": each for number, each, _, _ in rows}
    report("many", ("images", "second start [us an image]", "of the first", "lists [bytes an image]"), rows, figures)


if __name__ == "__main__":
    main()
