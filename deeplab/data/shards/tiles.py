"""Cuts large images and their masks into tiles, each of which becomes an example of its own."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Tile(NamedTuple):
    """A part of an image: the name of its example, from which its position can be read, and its pixels."""

    name: str
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Tiles:
    """How images are cut: evenly, into tiles of at most `size` pixels that overlap by at least this share.

    Attributes:
        size: longest side of a tile; 0: images are not cut.
        overlap: share of a tile that the next one also covers.
    """

    size: int = 0
    overlap: float = 0.0

    def cut(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut."""
        return 0 < self.size < max(height, width)

    def of(self, name: str, height: int, width: int) -> Iterator[Tile]:
        """The tiles of an image, row by row: NAME_yTOP_xLEFT, counted in pixels from the image's upper left corner."""
        for rows in self._along(height):
            for columns in self._along(width):
                yield Tile(f"{name}_y{rows.start}_x{columns.start}", rows, columns)

    def _along(self, pixels: int) -> list[slice]:
        length = min(self.size, pixels)
        stride = max(round(self.size * (1 - self.overlap)), 1)
        starts = np.linspace(0, pixels - length, math.ceil((pixels - length) / stride) + 1)
        return [slice(start, start + length) for start in np.round(starts).astype(int).tolist()]


WHOLE = Tiles()
"""Images that are not cut."""
