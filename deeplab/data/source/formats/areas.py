"""Areas of objects: each is drawn by itself into a patch, and the patches of an image are put onto each other."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deeplab.data.source.formats.coco_masks import pycocotools_mask
from deeplab.data.source.formats.dataset import check_near_image, read_json
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.images import opened
from deeplab.errors import DataError

Point = tuple[float, float]


@dataclass(frozen=True)
class Patch:
    """Pixels of an object, bool [height, width], and where their first one lies in the image."""

    left: int
    top: int
    pixels: np.ndarray


Area = Callable[[int, int], Patch]
"""(height, width) of the image -> the pixels of an object. Raises ValueError for what cannot be drawn."""


ObjectsOf = Callable[[Path, Any, Findings], list["Drawn"]]
"""(path, content of the JSON file) -> its objects; what is left out is noted. Raises ValueError."""


@dataclass(frozen=True)
class Drawn:
    """An object: its label and its area."""

    label: str
    area: Area


def draw(where: Path | str, objects: Iterable[Drawn], indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width]; later objects lie in front.

    Raises:
        DataError: an object cannot be drawn; the message names `where` it comes from.
    """
    mask = np.zeros((height, width), np.uint8)
    for drawn in objects:
        try:
            patch = drawn.area(height, width)
        except ValueError as error:
            raise DataError(f"{where}: an object of {drawn.label!r} cannot be drawn: {error}") from error
        put(mask, patch, indices[drawn.label])
    return mask


def draw_file(path: Path, read: ObjectsOf, indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """As `draw`, of the objects in a JSON file, which is read now: one file's objects are in memory.

    Raises:
        DataError: as `draw`, or the file was changed since it was read before.
    """
    try:
        return draw(path, read(path, read_json(path), Findings()), indices, height, width)
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}") from error


def put(canvas: np.ndarray, patch: Patch, value: int | bool) -> None:
    """Sets the pixels of a patch in a canvas [height, width]; those outside are dropped."""
    height, width = canvas.shape
    rows = slice(max(-patch.top, 0), max(height - patch.top, 0))
    columns = slice(max(-patch.left, 0), max(width - patch.left, 0))
    pixels = patch.pixels[rows, columns]
    top = max(patch.top, 0)
    left = max(patch.left, 0)
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels] = value


def polygon(points: Sequence[Point]) -> Area:
    """An outline as pycocotools draws it, which the extra `coco` installs.

    Raises:
        UsageError: pycocotools is not installed.
        ValueError: fewer than three points, or one that is not finite.
    """
    array = np.array(points, np.float64)
    if len(array) < 3 or not np.isfinite(array).all():
        raise ValueError(f"an outline of {len(array)} points" + " that are not all finite" * (len(array) > 2))
    return functools.partial(_polygon, pycocotools_mask(), array)


def _polygon(mask_api: ModuleType, points: np.ndarray, height: int, width: int) -> Patch:
    check_near_image(points.tolist(), height, width)
    encoded = mask_api.frPyObjects([points.ravel().tolist()], height, width)
    return Patch(0, 0, mask_api.decode(mask_api.merge(encoded)).astype(bool))


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def turned(points: Iterable[Point], center: Point, degrees: float) -> list[Point]:
    """The points turned about a center: clockwise as seen, since y points down."""
    cosine = math.cos(math.radians(degrees))
    sine = math.sin(math.radians(degrees))
    x, y = center
    return [(x + cosine * (px - x) - sine * (py - y), y + sine * (px - x) + cosine * (py - y)) for px, py in points]


def ellipse(center: Point, radii: Point, degrees: float = 0.0) -> Area:
    """The pixels whose centers lie in an ellipse that is turned clockwise as seen."""
    return functools.partial(_ellipse, center, radii, degrees)


def _ellipse(center: Point, radii: Point, degrees: float, height: int, width: int) -> Patch:
    longest = max(radii)
    x, y = center
    check_near_image([(x - longest, y - longest), (x + longest, y + longest)], height, width)
    left = math.floor(x - longest)
    top = math.floor(y - longest)
    side = math.ceil(2 * longest) + 2
    columns = left + np.arange(side) + 0.5 - x
    rows = (top + np.arange(side) + 0.5 - y)[:, None]
    cosine = math.cos(math.radians(degrees))
    sine = math.sin(math.radians(degrees))
    along = (cosine * columns + sine * rows) / radii[0]
    across = (cosine * rows - sine * columns) / radii[1]
    return Patch(left, top, along**2 + across**2 <= 1)


def run_lengths(values: Iterable[object]) -> np.ndarray:
    """Lengths of runs, as numbers or as text: uint32. Raises ValueError for anything that is no such number."""
    numbers = [int(value) if isinstance(value, str) else value for value in values]
    for number in numbers:
        if type(number) is not int or not 0 <= number < 1 << 32:
            raise ValueError(f"a run of {number!r} pixels")
    return np.array(numbers, np.uint32)


def runs(lengths: np.ndarray, num_pixels: int) -> np.ndarray:
    """Pixels from the lengths of runs, off and on in turn, beginning with off: bool [num_pixels].

    Raises:
        ValueError: they do not add up.
    """
    total = int(lengths.sum(dtype=np.uint64))
    if total != num_pixels:
        raise ValueError(f"its run lengths add up to {total:,} pixels, not {num_pixels:,}")
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths)


def together(areas: Sequence[Area]) -> Area:
    """The pixels of any of several areas."""

    def area(height: int, width: int) -> Patch:
        canvas = np.zeros((height, width), bool)
        for each in areas:
            put(canvas, each(height, width), True)
        return Patch(0, 0, canvas)

    return area


def without(area: Area, hole: Area) -> Area:
    """The pixels of an area that are not in another."""

    def rest(height: int, width: int) -> Patch:
        patch = area(height, width)
        removed = hole(height, width)
        put(patch.pixels, Patch(removed.left - patch.left, removed.top - patch.top, removed.pixels), False)
        return patch

    return rest


def bitmap(content: bytes, height: int, width: int) -> np.ndarray:
    """The pixels that are on in a PNG inside an annotation: those with alpha, or, without alpha, those that are not 0.

    Raises:
        ValueError: damaged, in colors without alpha, or larger than the image.
    """
    try:
        with opened("a bitmap", content, ("PNG",)) as image:
            if image.width > width or image.height > height:
                raise ValueError(f"a bitmap of {image.width}x{image.height} pixels in an image of {width}x{height}")
            if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
                return np.asarray(image.convert("RGBA"))[..., 3] > 0
            if image.mode not in ("1", "L", "P"):
                raise ValueError("a bitmap in colours, without alpha")
            return np.asarray(image) != 0
    except DataError as error:
        raise ValueError(str(error)) from error
