"""Rasterizes COCO's outlines and run lengths by pycocotools, which the extra `coco` installs."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deeplab.data.source.classes import VOID
from deeplab.data.source.formats.dataset import check_near_image
from deeplab.errors import DataError, UsageError

_LONGEST_RUN = 30
"""Bits; a run of all pixels of the largest image has 27. Without a limit, numbers would grow with the text."""


@dataclass(frozen=True)
class CocoObject:
    """One annotation: polygons (flat lists of x, y), run lengths, or a box (left, top, width, height)."""

    label: str
    polygons: list[list[float]] | None = None
    run_lengths: dict[str, Any] | None = None
    box: list[float] | None = None


def draw(path: Path, objects: list[CocoObject], indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width]: draws void boxes first, then objects, largest first."""
    mask_api = pycocotools_mask()
    layers = []
    for found in objects:
        try:
            encoded = _encode(mask_api, found, height, width)
            area = int(mask_api.area(encoded))
        except Exception as error:  # pycocotools raises bare Exceptions
            raise DataError(f"{path}: an object of {found.label!r} cannot be drawn: {error}") from error
        is_void_box = found.box is not None and indices[found.label] == indices[VOID]
        layers.append((not is_void_box, -area, indices[found.label], encoded))
    mask = np.zeros((height, width), np.uint8)
    for _, _, index, encoded in sorted(layers, key=lambda layer: layer[:2]):
        mask[mask_api.decode(encoded).astype(bool)] = index
    return mask


def _encode(mask_api: ModuleType, found: CocoObject, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of an object, as pycocotools' COCO.annToRLE makes them."""
    if found.run_lengths is None:
        box = found.box or [0.0] * 4
        outlines = found.polygons or [[box[0], box[1], box[0] + box[2], box[1] + box[3]]]
        for outline in outlines:  # pycocotools' memory grows with the length of an outline, inside the image or not
            check_near_image(zip(outline[::2], outline[1::2], strict=True), height, width)
        return mask_api.merge(mask_api.frPyObjects(found.polygons or np.array([box]), height, width))
    size = found.run_lengths["size"]
    counts = found.run_lengths["counts"]
    if size != [height, width]:
        raise ValueError(f"its run lengths are for {size[1]}x{size[0]} pixels, but the image is {width}x{height}")
    numbers = _decompressed(counts) if isinstance(counts, str) else counts
    if min(numbers, default=0) < 0:
        raise ValueError("a run length is negative")
    if sum(numbers) != height * width:
        raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")  # pycocotools would not notice
    return found.run_lengths if isinstance(counts, str) else mask_api.frPyObjects(found.run_lengths, height, width)


def _decompressed(text: str) -> list[int]:
    """Compressed run lengths as numbers: five bits per character, lowest first; from the fourth, differences."""
    counts: list[int] = []
    value = 0
    shift = 0
    for character in text.encode():
        bits = character - 48
        if not 0 <= bits < 64 or shift > _LONGEST_RUN:
            raise ValueError("its compressed run lengths are damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = 0
            shift = 0
    return counts


def pycocotools_mask() -> ModuleType:
    """Pycocotools' module `mask`; raises UsageError if it is not installed."""
    try:
        from pycocotools import mask  # noqa: PLC0415  an extra, which only this format needs
    except ImportError as error:
        raise UsageError("pycocotools is needed to read COCO's files: pip install '.[coco]'") from error
    return mask
