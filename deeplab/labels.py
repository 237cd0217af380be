"""Class indices: void, the background, and the colors."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

VOID_LABEL = 255
"""VOC's void: object borders and unlabeled pixels. Excluded from losses, metrics and class weights."""


_COLOR_OR_NONE = re.compile(r"(?:#[0-9a-f]{6})?")


def palette() -> np.ndarray:
    """VOC's color map, uint8 [256, 3] RGB; entry 255 (void) is VOC's cream.

    The bits of an index are spread over the channels, most significant bit first (VOC devkit, VOClabelcolormap.m).
    """
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors


class ColoredNames(tuple[str, ...]):
    """Names of classes, by index, some with a color of their own in pictures: whatever draws classes takes names.

    Equal to the plain tuple: colors change nothing about a model.

    Attributes:
        colors: `#rrggbb` by index, empty for the usual color; none at all if no class has one of its own.
    """

    colors: tuple[str, ...]

    def __new__(cls, names: Iterable[str], colors: Iterable[str] = ()) -> "ColoredNames":
        """Raises ValueError for colors that are malformed, or of another number than the names."""
        colored = super().__new__(cls, names)
        colored.colors = tuple(colors)
        if len(colored.colors) not in (0, len(colored)):
            raise ValueError(f"{len(colored.colors)} colors of {len(colored)} classes")
        if malformed := [each for each in colored.colors if not _COLOR_OR_NONE.fullmatch(each)]:
            raise ValueError(f"{malformed[0]!r} is not a color")
        return colored


def has_background(class_names: Sequence[str]) -> bool:
    """Whether class 0 is a background by its name, in any spelling: not in CamVid, where it is sky."""
    return bool(class_names) and class_names[0].strip(" _").casefold() == "background"


def foreground(class_names: Sequence[str]) -> range:
    """The indices of all classes but a background: what is drawn over an image."""
    return range(int(has_background(class_names)), len(class_names))
