"""The pictures of an evaluation as files: masks, and rows of image, truth, prediction and errors."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.files import atomic_write
from deeplab.view import pictures
from deeplab.view.pictures import bands


class PictureWriter:
    """A viewer that writes masks/NAME.png (the prediction, palettized) and side_by_side/NAME.png (as `panel` draws it).

    Args:
        output_dir: folder for both.
        class_names: names of the masks' classes.
    """

    def __init__(self, output_dir: Path, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._masks = output_dir / "masks"
        self._rows = output_dir / "side_by_side"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._rows.mkdir(parents=True, exist_ok=True)

    def wants(self, number: int) -> bool:
        """Every example is drawn."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one example: uint8 RGB [height, width, 3], masks uint8 [height, width]."""
        pictures.save(pictures.color_mask(prediction), self._masks / f"{name}.png")
        row = pictures.panel(image, truth, prediction, self._class_names, largest_side=max(truth.shape))
        save_quickly(row, self._rows / f"{name}.png")

    def results(self) -> dict[str, object]:
        """Nothing: the pictures are files."""
        return {}


def save_quickly(picture: Image.Image, path: Path) -> None:
    """As `pictures.save`, of RGB, with little work, by which photos hardly get larger.

    Pillow tries five filters on each row, which takes as long as the compression at level 1. Here each row is stored
    as its difference from the one above it (filter 2). www.w3.org/TR/png, sections 5 and 9.
    """
    # The pixels, some rows at a time.
    compressor = zlib.compressobj(1)
    compressed = []
    above = np.zeros(3 * picture.width, np.uint8)
    for rows in bands(picture.height, picture.width):
        band = np.asarray(picture.crop((0, rows.start, picture.width, rows.stop))).reshape(-1, len(above))
        filtered = np.full((len(band), 1 + len(above)), 2, np.uint8)
        np.subtract(band[0], above, out=filtered[0, 1:])
        np.subtract(band[1:], band[:-1], out=filtered[1:, 1:])
        compressed.append(compressor.compress(filtered.data))
        above = band[-1]
    compressed.append(compressor.flush())

    # The file: chunks, each between its length and its checksum.
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for chunk in (b"IHDR" + header, *(b"IDAT" + each for each in compressed if each), b"IEND"):
            file.write(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
