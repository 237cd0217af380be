"""Label Studio's JSON and JSON-MIN: regions by polygons, rectangles, ellipses and brushes."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from deeplab.data.source.formats.areas import Area, Drawn, Patch, box, draw, ellipse, polygon, turned
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    class_table,
    name_in_voc,
    read_json,
)
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.packed_runs import alpha_of_brush
from deeplab.data.source.formats.recognition import recognized
from deeplab.data.source.images import ENDINGS
from deeplab.errors import DataError
from deeplab.json_fields import field_of

_UPLOADED = re.compile(r"(?:^|(?<=/))[0-9a-f]{8}-")
"""What Label Studio puts in front of the name of an uploaded file."""

Entry = dict[str, Any]


@dataclass
class _Picture:
    """An annotated image: where the file says it is, its (width, height) if known, and its objects."""

    path: str
    where: str
    size: tuple[int, int] | None = None
    objects: list[Drawn] = field(default_factory=list)


def read_label_studio(path: Path, image_dir: Path | None = None, strict: bool = False) -> Dataset:
    """The images that someone annotated; later regions lie in front. The classes are the labels in use.

    Of several annotations of an image, the newest one counts; the others are left out, and so are predictions,
    regions without an area and tasks that nobody annotated. Images are found in `image_dir`, else in images/ or beside
    the file, also under the names that they had before they were uploaded.

    Raises:
        DataError: not such a file, damaged regions, missing images.
        UsageError: pycocotools is needed and not installed.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise DataError(f"{path}: not Label Studio's JSON: not a list of tasks{recognized(path)}")
    findings = Findings(strict)
    pictures = []
    try:
        annotated = list(_newest(content, findings))
    except ValueError as error:
        raise DataError(f"{path}: not Label Studio's JSON: {error}{recognized(path)}") from error
    for task, regions in annotated:
        where = f"{path}: task {task.get('id', 'without an id')}"
        try:
            pictures.append(_picture(task, regions, where, findings))
        except ValueError as error:
            findings.add(f"{where}: {error}")
    class_names, indices = class_table(sorted({drawn.label for each in pictures for drawn in each.objects}))
    finder = ImageFinder(findings)
    places = [image_dir] if image_dir else [path.parent / "images", path.parent]
    examples = [_example(path, picture, places, indices, finder) for picture in pictures]
    findings.raise_if_any()
    if not any(picture.objects for picture in pictures):
        raise no_area(path, findings)
    return Dataset(class_names, [each for each in examples if each is not None], findings.left_out, findings.renamed)


def _newest(tasks: list[Entry], findings: Findings) -> Iterator[tuple[Entry, list[Entry]]]:
    """Each task with the regions of its newest annotation. Raises ValueError."""
    minimal: dict[str, list[Entry]] = {}
    for task in tasks:
        if "data" not in task:  # JSON-MIN: one entry per annotation
            minimal.setdefault(str(task.get("id", id(task))), []).append(task)
            continue
        annotations = _objects_of(task.get("annotations", task.get("completions")))
        done = [each for each in annotations if not each.get("was_cancelled") and not each.get("skipped")]
        name = f"task {task.get('id')}"
        if not done:
            findings.omit("task without an annotation", name)
            continue
        *others, newest = sorted(done, key=lambda each: str(each.get("created_at", "")))
        if others:
            findings.omit("annotation older than the newest one of its task", name, len(others))
        results = _objects_of(newest.get("result"))
        yield task, [{**field_of({"value": {}, **each}, "value", dict), **each} for each in results]
    for entries in minimal.values():
        *others, newest = sorted(entries, key=lambda each: str(each.get("created_at", "")))
        if others:
            findings.omit("annotation older than the newest one of its task", f"task {newest.get('id')}", len(others))
        lists = [value for value in newest.values() if isinstance(value, list)]
        yield newest, [value for values in lists for value in values if isinstance(value, dict)]


def _objects_of(content: object) -> list[Entry]:
    """A list of objects, or nothing. Raises ValueError for anything else."""
    if content is None:
        return []
    return [field_of({"entry": each}, "entry", dict) for each in field_of({"list": content}, "list", list)]


def _picture(task: Entry, regions: list[Entry], where: str, findings: Findings) -> _Picture:
    """Raises ValueError for a region that is damaged."""
    picture = _Picture(_image_path(task), where)
    labeled = {str(region["id"]) for region in regions if _labels(region) and region.get("id") is not None}
    for region in regions:
        labels = _labels(region)
        name = Path(picture.path).name
        if not labels:
            # The tag Labels makes two entries of a region, of which one has no label.
            if str(region.get("id")) not in labeled:
                findings.omit("region without a label", name)
            continue

        # What a mask can hold: upright, with one label, of a kind that covers an area.
        if region.get("image_rotation"):
            raise ValueError(
                f"the image was turned by {region['image_rotation']} degrees; turn it back in Label Studio"
            )
        if len(labels) > 1:
            findings.omit("second label of a region", name, len(labels) - 1)
        kind = next((kind for key, kind in _KINDS.items() if key in region), None)
        if kind is None:
            findings.omit(f"{region.get('type', 'region')}: covers no area, or of an unknown kind", name)
            continue

        # All regions are of one picture.
        size = (field_of(region, "original_width", int), field_of(region, "original_height", int))
        if picture.size not in (None, size):
            raise ValueError(f"regions for {size[0]}x{size[1]} and for {picture.size[0]}x{picture.size[1]} pixels")
        picture.size = size
        if kind is _polygon and len(field_of(region, "points", list)) < 3:
            findings.omit("polygon with fewer than 3 points", name)
            continue
        picture.objects.append(Drawn(findings.label(labels[0]), kind(region, *size)))
    return picture


def _labels(region: Entry) -> list[Any]:
    """The labels of a region: the value of `polygonlabels`, `brushlabels`, ..., or `labels`."""
    key = next((key for key, value in region.items() if key.endswith("labels") and isinstance(value, list)), None)
    return region[key] if key else []


def _image_path(task: Entry) -> str:
    """The path of the image in a task; addresses keep only what names a file."""
    data = field_of({"data": task, **task}, "data", dict)
    texts = [value for value in [data.get("image"), *data.values()] if isinstance(value, str)]
    for text in texts:
        path = text.partition("/data/local-files/?d=")[2] or text.partition("?")[0]
        path = unquote(path)
        if path.lower().endswith(ENDINGS) and name_in_voc(path):
            return path
    raise ValueError("names no image")


def _polygon(region: Entry, width: int, height: int) -> Area:
    pairs = [field_of({"points": point}, "points", tuple[float, ...]) for point in region["points"]]
    return polygon([(x / 100 * width, y / 100 * height) for x, y in pairs])


def _rectangle(region: Entry, width: int, height: int) -> Area:
    """Turned about its upper left corner, in pixels."""
    left = field_of(region, "x", float) / 100 * width
    top = field_of(region, "y", float) / 100 * height
    right = left + field_of(region, "width", float) / 100 * width
    bottom = top + field_of(region, "height", float) / 100 * height
    degrees = field_of({"rotation": 0, **region}, "rotation", float)
    return polygon(turned(box(left, top, right, bottom), (left, top), degrees))


def _ellipse(region: Entry, width: int, height: int) -> Area:
    center = (field_of(region, "x", float) / 100 * width, field_of(region, "y", float) / 100 * height)
    radii = (field_of(region, "radiusX", float) / 100 * width, field_of(region, "radiusY", float) / 100 * height)
    if min(radii) <= 0:
        raise ValueError(f"an ellipse with the radii {radii[0]:g} and {radii[1]:g}")
    return ellipse(center, radii, field_of({"rotation": 0, **region}, "rotation", float))


def _brush(region: Entry, width: int, height: int) -> Area:
    try:
        packed = bytes(region["rle"])
    except (TypeError, ValueError) as error:
        raise ValueError("a brush whose rle is no list of bytes") from error
    return functools.partial(_alpha, packed, width, height)


def _alpha(packed: bytes, columns: int, rows: int, height: int, width: int) -> Patch:
    if (columns, rows) != (width, height):
        raise ValueError(f"a brush for {columns}x{rows} pixels, but the image is {width}x{height}")
    return Patch(0, 0, alpha_of_brush(packed, height, width) > 0)


_KINDS = {"points": _polygon, "rle": _brush, "radiusX": _ellipse, "height": _rectangle}
"""A field that only one kind of region has -> that kind."""


def _example(
    path: Path, picture: _Picture, places: list[Path], indices: dict[str, int], finder: ImageFinder
) -> Example | None:
    name = Path(picture.path).name
    paths = [picture.path, _UPLOADED.sub("", name)] if _UPLOADED.search(name) else [picture.path]
    image = finder.find_in(places, paths, path.name)
    if image is None:
        return None
    return Example(
        name=str(PurePosixPath(name_in_voc(picture.path)).with_name(image.stem)),
        image=image,
        draw=functools.partial(draw, picture.where, picture.objects, indices),
        num_objects=len(picture.objects),
        stated_size=picture.size,
    )
