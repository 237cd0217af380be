"""VIA, the VGG Image Annotator: projects and exported annotations of VIA 1 and 2, and projects of VIA 3."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab.data.source.formats.areas import Area, Drawn, box, draw, ellipse, polygon
from deeplab.data.source.formats.dataset import Dataset, Example, ImageFinder, class_table, name_in_voc, read_json
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError
from deeplab.json_fields import field_of

_OF_CLASSES = ("label", "labels", "class", "category", "name", "type", "object")
"""Names of the attribute that is taken for the class, if regions have several."""

_SHAPES_OF_VIA_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}

Entry = dict[str, Any]


@dataclass(frozen=True)
class _Region:
    """A region: its kind, its numbers in the order of VIA 3, and its attributes."""

    kind: str
    numbers: list[float]
    attributes: Entry


def read_via(path: Path, image_dir: Path | None = None, strict: bool = False) -> Dataset:
    """The images of a JSON file, and their regions; later ones lie in front.

    The class of a region is its only attribute, else the one called `label`, `class` or the like. Images are found in
    `image_dir`, else beside the file.

    Raises:
        DataError: not such a file, several attributes of which none is so called, damaged regions, missing images.
        UsageError: pycocotools is needed and not installed.
    """
    content = read_json(path)
    findings = Findings(strict)
    try:
        read = (
            _images_of_3 if isinstance(content, dict) and {"file", "view", "metadata"} <= set(content) else _images_of_2
        )
        images = list(read(content))
        attribute = _attribute_of_classes(region for _, regions in images for region in regions)
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: not a project of VIA: {error}{recognized(path)}") from error
    objects = []
    for name, regions in images:
        try:
            objects.append(_objects(name, regions, attribute, findings))
        except ValueError as error:
            findings.add(f"{path}: {name}: {error}")
            objects.append([])
    class_names, indices = class_table(sorted({drawn.label for drawn in itertools.chain.from_iterable(objects)}))
    finder = ImageFinder(findings)
    examples = []
    for (name, _), drawn in zip(images, objects, strict=True):
        image = finder.find(image_dir or path.parent, name, path.name)
        if image is not None:
            draw_these = functools.partial(draw, f"{path}: {name}", drawn, indices)
            examples.append(Example(name_in_voc(name), image, draw_these, len(drawn)))
    findings.raise_if_any()
    if not any(objects):
        raise no_area(path, findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _images_of_2(content: object) -> Iterator[tuple[str, list[_Region]]]:
    """The name of each image, and its regions: a list, or, in VIA 1, a dictionary."""
    entries = field_of({"images": content}, "images", dict)
    entries = entries.get("_via_img_metadata", entries)
    for entry in field_of({"images": entries}, "images", dict).values():
        name = field_of(entry, "filename", str)
        listed = entry.get("regions") or []
        if not isinstance(listed, dict | list):
            raise ValueError(f"{name}: regions: {listed!r}")
        regions = []
        for region in listed.values() if isinstance(listed, dict) else listed:
            shape = field_of(region, "shape_attributes", dict)
            attributes = field_of({"region_attributes": {}, **region}, "region_attributes", dict)
            regions.append(_Region(field_of(shape, "name", str), _numbers_of_2(shape), attributes))
        yield name, regions


def _numbers_of_2(shape: Entry) -> list[float]:
    if "all_points_x" in shape:
        xs = field_of(shape, "all_points_x", tuple[float, ...])
        ys = field_of(shape, "all_points_y", tuple[float, ...])
        return [value for pair in zip(xs, ys, strict=True) for value in pair]
    if shape.get("name") == "ellipse":
        return [field_of({"theta": 0, **shape}, name, float) for name in ("cx", "cy", "rx", "ry", "theta")]
    return [field_of(shape, name, float) for name in ("x", "y", "cx", "cy", "width", "height", "r") if name in shape]


def _images_of_3(content: Entry) -> Iterator[tuple[str, list[_Region]]]:
    """A view of an image has its regions; the value of an attribute may be the number of an option."""
    files = field_of(content, "file", dict)
    attributes = field_of({"attribute": {}, **content}, "attribute", dict)
    regions: dict[str, list[_Region]] = {number: [] for number in field_of(content, "view", dict)}
    for entry in field_of(content, "metadata", dict).values():
        numbers = list(field_of(entry, "xy", tuple[float, ...]))
        if not numbers:  # a property of the whole image
            continue
        values = {}
        for number, value in field_of({"av": {}, **entry}, "av", dict).items():
            attribute = field_of(attributes, number, dict)
            options = attribute.get("options")
            by_number = options if isinstance(options, dict) and isinstance(value, str) else {}
            values[field_of(attribute, "aname", str)] = by_number.get(value, value) if by_number else value
        kind = _SHAPES_OF_VIA_3.get(int(numbers[0]), "extreme shape")
        regions[field_of(entry, "vid", str)].append(_Region(kind, numbers[1:], values))
    for number, view in content["view"].items():
        (file, *others) = field_of(view, "fid_list", list)
        if others:
            raise ValueError(f"view {number} has {1 + len(others)} files; only views of one image are read")
        yield field_of(files[str(file)], "fname", str), regions[number]


def _attribute_of_classes(regions: Iterator[_Region]) -> str:
    """The name of the attribute that holds the class. Raises ValueError."""
    used = dict.fromkeys(
        name for region in regions for name, value in region.attributes.items() if value not in ("", {})
    )
    if len(used) == 1:
        return next(iter(used))
    found = next((name for word in _OF_CLASSES for name in used if str(name).casefold() == word), None)
    if found is None:
        listed = ", ".join(map(repr, used)) or "none"
        raise ValueError(f"which attribute of regions is the class? It has {listed}; call one of them 'label' in VIA")
    return found


def _objects(name: str, regions: list[_Region], attribute: str, findings: Findings) -> list[Drawn]:
    """Raises ValueError."""
    if not name_in_voc(name):
        raise ValueError("not the name of an image")
    objects = []
    for region in regions:
        value = region.attributes.get(attribute, "")
        if isinstance(value, dict):  # check boxes
            value = next((key for key, is_on in value.items() if is_on), "")
        area = _area(region)
        if area is None:
            findings.omit(f"{region.kind}: covers no area, or of an unknown kind", name)
        elif value == "":
            findings.omit(f"region without {attribute!r}", name)
        else:
            objects.append(Drawn(findings.label(value), area))
    return objects


def _area(region: _Region) -> Area | None:
    """None if it covers no area. Raises ValueError."""
    numbers = region.numbers
    if region.kind == "polygon":
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        return polygon(points) if len(points) > 2 else None
    if region.kind == "rect":
        left, top, width, height = numbers
        return polygon(box(left, top, left + width, top + height))
    if region.kind not in ("circle", "ellipse"):
        return None
    x, y, *radii = numbers
    if region.kind == "circle":
        radii *= 2
    right, down, *angle = radii
    if min(right, down) <= 0:
        return None
    return ellipse((x, y), (right, down), math.degrees(sum(angle)))
