"""Supervisely's projects: meta.json, and in the folder of each data set img/ and ann/ with a JSON file per image."""

import base64
import functools
import itertools
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplab.data.source.classes import BACKGROUND, VOID, ClassTable
from deeplab.data.source.formats import opencv_drawing
from deeplab.data.source.formats.areas import Area, Drawn, Patch, bitmap, box, draw_file, together, turned, without
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    class_table,
    images_in,
    known_split,
    name_in_voc,
    read_json,
    visible,
)
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.masks import example_of_mask
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError
from deeplab.json_fields import field_of
from deeplab.text import read_lines

_NEUTRAL = "neutral"

Entry = dict[str, Any]


def read_supervisely(folder: Path, strict: bool = False) -> Dataset:
    """A project, or its export as Pascal VOC; later objects lie in front. The classes are those of the project.

    A data set or a tag of an image called train, val or test is its split. Files are read again when their masks are
    drawn, so that one image's objects are in memory.

    Raises:
        DataError: not such a folder, damaged files, missing images.
    """
    if (folder / "colors.txt").is_file():
        return _read_voc_export(folder)
    findings = Findings(strict)
    labels = _labels(folder, findings)
    finder = ImageFinder(findings)
    found = []
    for path in visible(folder, "**/ann/*.json"):
        try:
            content = read_json(path)
            objects = _objects(path, content, findings)
            found.append((path, _split(path, content), _size(content), [drawn.label for drawn in objects]))
        except DataError as error:
            findings.add(str(error))
        except ValueError as error:
            findings.add(f"{path}: {error}")
    used = itertools.chain.from_iterable(names for *_, names in found)
    class_names, indices = class_table(sorted({*labels, *used}))
    examples = []
    for path, split, size, names in found:
        image = finder.find(path.parent.parent / "img", path.stem, path.name)
        if image is not None:
            name = str(path.parent.parent.relative_to(folder) / name_in_voc(image.name))
            draw_again = functools.partial(draw_file, path, _objects, indices)
            examples.append(Example(name, image, draw_again, len(names), split, stated_size=size))
    findings.raise_if_any()
    if not any(names for *_, names in found):
        raise no_area(folder, findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _labels(folder: Path, findings: Findings) -> list[str]:
    path = folder / "meta.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file (classes of Supervisely's project){recognized(folder)}")
    try:
        return [findings.label(field_of(each, "title", str)) for each in field_of(read_json(path), "classes", list)]
    except ValueError as error:
        raise DataError(f"{path}: not the classes of Supervisely's project: {error}") from error


def _split(path: Path, content: Entry) -> str:
    tags = [tag.get("name") for tag in field_of({"tags": [], **content}, "tags", list) if isinstance(tag, dict)]
    names = [path.parent.parent.name, *map(str, tags)]
    return next(filter(None, map(known_split, names)), "")


def _size(content: Entry) -> tuple[int, int]:
    size = field_of(content, "size", dict)
    return field_of(size, "width", int), field_of(size, "height", int)


def _objects(path: Path, content: Any, findings: Findings) -> list[Drawn]:  # noqa: ANN401  of a JSON file
    """The objects that cover an area, in the order of the file; the others are left out. Raises ValueError."""
    objects = []
    for entry in field_of(content, "objects", list):
        kind = field_of(entry, "geometryType", str)
        if kind not in _AREAS:
            findings.omit(f"{kind}: covers no area, or of an unknown kind", path.stem)
            continue
        label = findings.label(field_of(entry, "classTitle", str))
        try:
            area = _AREAS[kind](entry)
        except ValueError as error:
            raise ValueError(f"a {kind} of {label!r}: {error}") from error
        if area is None:
            findings.omit(f"{kind} with too few points", path.stem)
        else:
            objects.append(Drawn(label, area))
    return objects


def _corners(points: Any) -> list[tuple[int, int]]:  # noqa: ANN401
    """Points as whole pixels: Supervisely rounds down."""
    corners = []
    for point in field_of({"points": points}, "points", list):
        x, y = field_of({"point": point}, "point", tuple[float, ...])
        corners.append((math.floor(x), math.floor(y)))
    return corners


def _polygon(entry: Entry) -> Area | None:
    return _part(field_of(entry, "points", dict))


def _part(points: Entry) -> Area | None:
    """An outline without the pixels of its holes and their borders, as Supervisely draws it."""
    exterior = _corners(points.get("exterior"))
    interior = [hole for hole in map(_corners, field_of({"interior": [], **points}, "interior", list)) if hole]
    if len(exterior) < 3:
        return None
    area = opencv_drawing.outline([exterior])
    return without(area, opencv_drawing.outline(interior)) if interior else area


def _polygons(entry: Entry) -> Area | None:
    parts = [_part(field_of({"part": part}, "part", dict)) for part in field_of(entry, "parts", list)]
    return together([part for part in parts if part is not None]) if any(parts) else None


def _two_corners(points: object) -> tuple[int, int, int, int] | None:
    corners = _corners(points)
    if len(corners) != 2:
        return None
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
    return left, top, right, bottom


def _rectangle(entry: Entry) -> Area | None:
    sides = _two_corners(field_of(entry, "points", dict).get("exterior"))
    return sides and opencv_drawing.outline([[(int(x), int(y)) for x, y in box(*sides)]])


def _turned_rectangle(entry: Entry) -> Area | None:
    """Turned by an angle in radians about the center, which is rounded down, as are the corners."""
    sides = _two_corners(field_of(entry, "points", list))
    if sides is None:
        return None
    left, top, right, bottom = sides
    center = ((left + right) // 2, (top + bottom) // 2)
    corners = turned(box(*sides), center, math.degrees(field_of(entry, "angle", float)))
    return opencv_drawing.outline([[(math.floor(x), math.floor(y)) for x, y in corners]])


def _bitmap(entry: Entry) -> Area:
    content = field_of(entry, "bitmap", dict)
    ((x, y),) = [field_of(content, "origin", tuple[float, ...])]
    try:
        data = base64.b64decode(field_of(content, "data", str), validate=True)
    except ValueError as error:
        raise ValueError(f"data: {error}") from error
    return functools.partial(_unpacked, data, math.floor(x), math.floor(y))


def _unpacked(data: bytes, left: int, top: int, height: int, width: int) -> Patch:
    """A PNG, usually packed once more by zlib."""
    if not data.startswith(b"\x89PNG"):
        limit = 8 * height * width + (1 << 16)  # no PNG of the image's size is longer
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, limit)
        except zlib.error as error:
            raise ValueError(f"a bitmap that cannot be unpacked: {error}") from error
        if not unpacker.eof and not unpacker.unconsumed_tail:
            raise ValueError("a bitmap that cannot be unpacked: cut short")
        if unpacker.unconsumed_tail:
            raise ValueError(f"a bitmap of more than {limit:,} bytes")
    return Patch(left, top, bitmap(data, height, width))


_AREAS: dict[str, Callable[[Entry], Area | None]] = {
    "polygon": _polygon,
    "multipolygon": _polygons,
    "rectangle": _rectangle,
    "oriented_bbox": _turned_rectangle,
    "bitmap": _bitmap,
    "alpha_mask": _bitmap,
}


def _read_voc_export(folder: Path) -> Dataset:
    """Its export as Pascal VOC: SegmentationObject has the colors of classes, and SegmentationClass random ones.

    Pixels of `neutral`, its name for the borders of objects, are void.
    """
    path = folder / "colors.txt"
    findings = Findings()
    colors: dict[tuple[int, int, int], str] = {(0, 0, 0): BACKGROUND}
    for number, line in enumerate(read_lines(path, "colours of Supervisely's classes"), 1):
        if not line:
            continue
        name, *values = line.rsplit(maxsplit=3)
        try:
            red, green, blue = map(int, values)
            if not all(0 <= value <= 255 for value in (red, green, blue)):
                raise ValueError("not from 0 to 255")
            label = VOID if name == _NEUTRAL else findings.label(name)
        except ValueError as error:
            raise DataError(f"{path}: line {number}: not a name and three numbers: {error}") from error
        other = colors.setdefault((red, green, blue), label)
        if other != label:
            raise DataError(
                f"{path}: line {number}: {label!r} has the color of {other!r}; give each class another one in "
                "Supervisely, and export again"
            )
    class_names, indices = class_table(colors.values())
    table = ClassTable(class_names, colors={color: indices[label] for color, label in colors.items()})
    splits = {
        Path(name).stem: split
        for split in ("train", "val", "test")
        if (listed := folder / "ImageSets" / "Segmentation" / f"{split}.txt").is_file()
        for name in read_lines(listed, "names of images")
    }
    examples = []
    for image in images_in(folder / "JPEGImages"):
        mask = folder / "SegmentationObject" / f"{image.stem}_instance.png"
        if mask.is_file():
            examples.append(example_of_mask(image.stem, image, mask, table, splits.get(image.stem, "")))
        else:
            findings.add_missing(mask, image.name)
    findings.raise_if_any()
    return Dataset(class_names, examples, renamed=findings.renamed)
