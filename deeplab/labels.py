"""Class indices: void, the background, and the colors."""

from collections.abc import Sequence

import numpy as np

VOID_LABEL = 255
"""VOC's void: object borders and unlabeled pixels. Excluded from losses, metrics and class weights."""


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


def has_background(class_names: Sequence[str]) -> bool:
    """Whether class 0 is a background by its name, in any spelling: not in CamVid, where it is sky."""
    return bool(class_names) and class_names[0].strip(" _").casefold() == "background"


def foreground(class_names: Sequence[str]) -> range:
    """The indices of all classes but a background: what is drawn over an image."""
    return range(int(has_background(class_names)), len(class_names))
