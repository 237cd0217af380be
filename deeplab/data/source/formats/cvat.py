"""CVAT for images 1.1: one XML file with polygons, boxes, ellipses and masks of all images."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplab.data.source.formats import opencv_drawing
from deeplab.data.source.formats.areas import Area, Drawn, Patch, box, draw, polygon, run_lengths, runs, turned
from deeplab.data.source.formats.dataset import Dataset, Example, ImageFinder, class_table, known_split, name_in_voc
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.recognition import recognized
from deeplab.data.source.formats.xml_events import Event, events
from deeplab.errors import DataError

Attributes = dict[str, str]


@dataclass
class _Picture:
    """An image of the file, and its shapes with their z_order."""

    name: str
    size: tuple[int, int]
    subset: str
    shapes: list[tuple[int, Drawn]] = field(default_factory=list)


def read_cvat(path: Path, image_dir: Path | None = None, strict: bool = False) -> Dataset:
    """The images and shapes of an annotations.xml; shapes of a higher z_order, then later ones, lie in front.

    The classes are all labels of the project. Images lie in `image_dir`, else beside the file, in images/ or in
    images/SUBSET/, as in CVAT's archives. Left out are shapes without an area, or of an unknown kind.

    Raises:
        DataError: unreadable, tracks of a video, missing images.
        UsageError: pycocotools is needed and not installed.
    """
    findings = Findings(strict)
    labels: set[str] = set()
    pictures: list[_Picture] = []
    within: list[str] = []
    for event in events(path):
        if event.attributes is None:
            within.pop()
            if event.name == "name" and within[-1:] == ["label"]:
                labels.add(_label(path, event.text, findings))
            continue
        if not within and event.name != "annotations":
            raise DataError(f"{path}: not CVAT's XML: <{event.name}>, where <annotations> belongs{recognized(path)}")
        if event.name == "track":
            raise DataError(f"{path}: tracks of a video; export 'CVAT for images 1.1' from CVAT")
        try:
            if event.name == "image":
                pictures.append(_picture(event.attributes))
            elif within[-1:] == ["image"]:
                _add_shape(event, pictures[-1], findings)
        except KeyError as error:
            findings.add(f"{path}: {_where(pictures)}: a <{event.name}> without {error}")
            within.append("")  # the shapes in a damaged image belong to no other
        except ValueError as error:
            findings.add(f"{path}: {_where(pictures)}: a <{event.name}>: {error}")
            within.append("")
        else:
            within.append(event.name)
    labels |= {drawn.label for picture in pictures for _, drawn in picture.shapes}
    class_names, indices = class_table(sorted(labels))
    finder = ImageFinder(findings)
    found = [_example(path, picture, image_dir, indices, finder) for picture in pictures]
    findings.raise_if_any()
    if not any(picture.shapes for picture in pictures):
        raise no_area(path, findings)
    return Dataset(class_names, [each for each in found if each is not None], findings.left_out, findings.renamed)


def _where(pictures: list[_Picture]) -> str:
    return f"image {pictures[-1].name!r}" if pictures else "the first image"


def _label(path: Path, text: str, findings: Findings) -> str:
    try:
        return findings.label(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _picture(attributes: Attributes) -> _Picture:
    name = attributes["name"]
    if not name_in_voc(name):
        raise ValueError(f"its name is {name!r}")
    size = (int(attributes["width"]), int(attributes["height"]))
    if min(size) < 1:
        raise ValueError(f"of {size[0]}x{size[1]} pixels")
    return _Picture(name, size, attributes.get("subset", ""))


def _add_shape(event: Event, picture: _Picture, findings: Findings) -> None:
    """Raises KeyError or ValueError for a shape that is damaged."""
    attributes = event.attributes or {}
    if event.name not in _AREAS:
        findings.omit(f"{event.name}: covers no area", picture.name)
        return
    if event.name == "polygon" and len(_points(attributes)) < 3:
        findings.omit("polygon with fewer than 3 points", picture.name)
        return
    drawn = Drawn(findings.label(attributes["label"]), _AREAS[event.name](attributes))
    picture.shapes.append((int(attributes.get("z_order", 0)), drawn))


def _points(attributes: Attributes) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in attributes["points"].split(";")]
    return [(float(x), float(y)) for x, y in pairs]


def _numbers(attributes: Attributes, *names: str) -> list[float]:
    numbers = [float(attributes[name]) for name in names]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is not finite")
    return numbers


def _polygon(attributes: Attributes) -> Area:
    return polygon(_points(attributes))


def _box(attributes: Attributes) -> Area:
    """As CVAT exports it in masks: turned about its center, then drawn as a polygon."""
    left, top, right, bottom = _numbers(attributes, "xtl", "ytl", "xbr", "ybr")
    degrees = float(attributes.get("rotation", 0))
    return polygon(turned(box(left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), degrees))


def _ellipse(attributes: Attributes) -> Area:
    """CVAT draws ellipses by OpenCV, which rounds their numbers."""
    x, y, right, down = _numbers(attributes, "cx", "cy", "rx", "ry")
    return opencv_drawing.ellipse((x, y), (right, down), *_numbers({"rotation": "0", **attributes}, "rotation"))


def _mask(attributes: Attributes) -> Area:
    left, top, width, height = (int(attributes[name]) for name in ("left", "top", "width", "height"))
    lengths = run_lengths(attributes["rle"].split(","))
    return functools.partial(_runs_in_rows, left, top, width, height, lengths)


def _runs_in_rows(left: int, top: int, columns: int, rows: int, lengths: np.ndarray, height: int, width: int) -> Patch:
    if min(left, top) < 0 or min(rows, columns) < 1 or left + columns > width or top + rows > height:
        place = f"a mask of {columns}x{rows} pixels at ({left}, {top})"
        raise ValueError(f"{place} does not lie in {width}x{height} pixels")
    return Patch(left, top, runs(lengths, rows * columns).reshape(rows, columns))


_AREAS: dict[str, Callable[[Attributes], Area]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _example(
    path: Path, picture: _Picture, image_dir: Path | None, indices: dict[str, int], finder: ImageFinder
) -> Example | None:
    places = [image_dir] if image_dir else [path.parent / "images", path.parent]
    names = [f"{picture.subset}/{picture.name}", picture.name] if picture.subset else [picture.name]
    image = finder.find_in(places, names, path.name)
    if image is None:
        return None
    objects = [drawn for _, drawn in sorted(picture.shapes, key=lambda shape: shape[0])]
    return Example(
        name=name_in_voc(picture.name),
        image=image,
        draw=functools.partial(draw, f"{path}: image {picture.name!r}", objects, indices),
        num_objects=len(objects),
        split=known_split(picture.subset),
        stated_size=picture.size,
    )
