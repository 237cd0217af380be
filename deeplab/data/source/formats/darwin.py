"""V7's Darwin 2: one JSON file per image, with polygons of several paths, raster layers, boxes and ellipses."""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.source.formats import opencv_drawing
from deeplab.data.source.formats.areas import Area, Drawn, Patch, box, draw_file, ellipse, run_lengths
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    class_table,
    name_in_voc,
    read_json,
    visible,
)
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.recognition import kind_of
from deeplab.errors import DataError
from deeplab.json_fields import field_of

Entry = dict[str, Any]


def read_darwin(folder: Path, image_dir: Path | None = None, strict: bool = False) -> Dataset:
    """All *.json in a folder and its subfolders; later annotations lie in front. The classes are the names in use.

    Images are found in `image_dir`, else in images/ of the folder, as darwin-py puts them, or in the folder itself.
    Files are read again when their masks are drawn.

    Raises:
        DataError: damaged files, missing images.
    """
    findings = Findings(strict)
    finder = ImageFinder(findings)
    places = [image_dir] if image_dir else [folder / "images", folder]
    found = []
    for path in visible(folder, "**/*.json"):
        try:
            content = read_json(path)
            if not isinstance(content, dict) or not {"item", "annotations"} <= set(content):
                kind = kind_of(content)
                findings.omit("*.json of another tool", f"{path.name}: {kind.name}" if kind else path.name)
                continue
            item = field_of(content, "item", dict)
            image = f"{field_of({'path': '', **item}, 'path', str)}/{field_of(item, 'name', str)}".lstrip("/")
            labels = [drawn.label for drawn in _objects(path, content, findings)]
            found.append((path, image, _size(item), labels))
        except DataError as error:
            findings.add(str(error))
        except ValueError as error:
            findings.add(f"{path}: {error}")
    class_names, indices = class_table(sorted(set(itertools.chain.from_iterable(labels for *_, labels in found))))
    examples = []
    for path, name, size, labels in found:
        image_file = finder.find_in(places, [name], path.name)
        if image_file is not None:
            draw_again = functools.partial(draw_file, path, _objects, indices)
            examples.append(Example(name_in_voc(name), image_file, draw_again, len(labels), stated_size=size))
    findings.raise_if_any()
    if not any(labels for *_, labels in found):
        raise no_area(folder, findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _size(item: Entry) -> tuple[int, int]:
    slots = field_of(item, "slots", list)
    if len(slots) != 1:
        raise ValueError(f"{len(slots)} slots; only items of one image are read")
    return field_of(slots[0], "width", int), field_of(slots[0], "height", int)


def _objects(path: Path, content: Any, findings: Findings) -> list[Drawn]:  # noqa: ANN401  of a JSON file
    """The objects that cover an area, in the order of the file; the others are left out. Raises ValueError."""
    annotations = [
        field_of({"annotation": each}, "annotation", dict) for each in field_of(content, "annotations", list)
    ]
    masks = {
        field_of(each, "id", str): findings.label(field_of(each, "name", str)) for each in annotations if "mask" in each
    }

    # What covers an area, in order.
    objects = []
    for entry in annotations:
        kind = next((kind for kind in _AREAS if kind in entry), None)
        if "raster_layer" in entry:
            objects += _layers(field_of(entry, "raster_layer", dict), masks)
        elif kind is not None:
            label = findings.label(field_of(entry, "name", str))
            area = _AREAS[kind](field_of(entry, kind, dict))
            if area is None:
                findings.omit(f"{kind} with fewer than 3 points", path.name)
            else:
                objects.append(Drawn(label, area))
        elif "mask" not in entry:
            other = next(
                (key for key, value in entry.items() if key not in _PLAIN and isinstance(value, dict)), "entry"
            )
            findings.omit(f"{other}: covers no area, or of an unknown kind", path.name)
    return objects


def _point(fields: object) -> tuple[float, float]:
    return field_of(fields, "x", float), field_of(fields, "y", float)


def _polygon(fields: Entry) -> Area | None:
    """What lies in an odd number of paths, drawn as by darwin-py: rounded to pixels of the image."""
    paths = [field_of({"path": each}, "path", list) for each in field_of(fields, "paths", list)]
    rings = [[_point(point) for point in each] for each in paths if len(each) > 2]
    return functools.partial(_rounded, rings) if rings else None


def _rounded(rings: list[list[tuple[float, float]]], height: int, width: int) -> Patch:
    inside = all(0 <= x <= width and 0 <= y <= height for ring in rings for x, y in ring)
    corners = [
        [(round(min(x, width - 1)), round(min(y, height - 1))) if inside else (round(x), round(y)) for x, y in ring]
        for ring in rings
    ]
    return opencv_drawing.outline(corners, has_last=False)(height, width)


def _box(fields: Entry) -> Area:
    left = field_of(fields, "x", float)
    top = field_of(fields, "y", float)
    return functools.partial(
        _rounded, [box(left, top, left + field_of(fields, "w", float), top + field_of(fields, "h", float))]
    )


def _ellipse(fields: Entry) -> Area:
    center = _point(field_of(fields, "center", dict))
    radii = _point(field_of(fields, "radius", dict))
    if min(radii) <= 0:
        raise ValueError(f"an ellipse with the radii {radii[0]:g} and {radii[1]:g}")
    return ellipse(center, radii, math.degrees(field_of({"angle": 0, **fields}, "angle", float)))


def _layers(layer: Entry, masks: dict[str, str]) -> list[Drawn]:
    """The masks in a raster layer: numbers of pixels that have one value, in rows."""
    pairs = run_lengths(field_of(layer, "dense_rle", list))
    if len(pairs) % 2:
        raise ValueError("dense_rle: an odd number of values")
    objects = []
    values = {0}  # nothing
    for identity, number in field_of(layer, "mask_annotation_ids_mapping", dict).items():
        if identity not in masks:
            raise ValueError(f"raster_layer: no mask has the id {identity}")
        value = field_of({identity: number}, identity, int)
        objects.append(Drawn(masks[identity], functools.partial(_pixels_of_value, pairs[::2], pairs[1::2], value)))
        values.add(value)
    if unknown := sorted(set(pairs[::2].tolist()) - values):
        raise ValueError(f"raster_layer: no mask has the value {', '.join(map(str, unknown[:5]))}")
    return objects


def _pixels_of_value(values: np.ndarray, counts: np.ndarray, value: int, height: int, width: int) -> Patch:
    total = int(counts.sum(dtype=np.uint64))
    if total != height * width:
        raise ValueError(f"its run lengths add up to {total:,} pixels, but the image is {width}x{height}")
    return Patch(0, 0, np.repeat(values == value, counts).reshape(height, width))


_AREAS: dict[str, Callable[[Entry], Area | None]] = {"polygon": _polygon, "ellipse": _ellipse, "bounding_box": _box}
"""Fields of annotations that have an area; a polygon and an ellipse have their bounding box, too."""

_PLAIN = ("properties", "attributes", "inference", "instance_id", "text", "directional_vector")
"""Fields beside that of an annotation's kind."""
