"""Annotations of labelme (versions 3 to 6) and X-AnyLabeling, which writes the same files: one JSON per image."""

import base64
import binascii
import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    check_near_image,
    check_number,
    class_table,
    images_in,
    name_in_voc,
    read_json,
    visible,
)
from deeplab.data.source.formats.findings import Findings, lines_of_left_out
from deeplab.data.source.formats.recognition import kind_of, kind_of_file, recognized
from deeplab.data.source.images import check_pixels, opened
from deeplab.errors import DataError, shortened

_NUM_POINTS = {
    "polygon": range(3, 1 << 30),
    "rectangle": (2, 4),  # X-AnyLabeling stores four corners
    "circle": (2,),
    "mask": (2,),
    "oriented_rectangle": (4,),
    "rotation": (4,),
    "quadrilateral": (4,),
}
"""Shapes that cover an area, and their allowed numbers of points."""

_NO_AREA = ("line", "linestrip", "point", "points")

Point = tuple[float, float]


@dataclass(frozen=True)
class _Shape:
    label: str
    kind: str
    points: list[Point]
    mask: Any  # a text: PNG, base64


@dataclass(frozen=True)
class _Annotation:
    """One file: the image it names, whether it also contains that image, the image's (width, height), the shapes."""

    path: Path
    image_path: str
    has_image: bool
    size: tuple[int, int] | None
    shapes: list[_Shape]


def read_labelme(folder: Path, strict: bool = False) -> Dataset:
    """All *.json in a folder and its subfolders; later shapes lie in front, as labelme draws them.

    The image is the file named in the annotation, else the image inside it (`imageData`). Left out are shapes without
    an area or of an unknown kind, and files of other tools; with `strict` they are refused.

    Raises:
        DataError: no *.json of labelme, damaged ones, or missing images.
    """
    findings = Findings(strict)
    annotations = []
    for path in filter(Path.is_file, visible(folder, "**/*.json")):
        try:
            if annotation := _read_annotation(path, str(path.relative_to(folder)), findings):
                annotations.append(annotation)
        except DataError as error:
            findings.add(str(error))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else shortened(error, 200)
            findings.add(f"{path}: not an annotation of labelme ({reason})")
    class_names, indices = class_table(sorted({shape.label for each in annotations for shape in each.shapes}))
    finder = ImageFinder(findings)
    found = [_example(annotation, folder, indices, finder) for annotation in annotations]
    examples = [example for example in found if example is not None]

    # The path in an annotation may lead through `..` to a file that the folder's own listing names otherwise.
    annotated = {example.image.resolve() for example in examples}
    for image in images_in(folder) if annotations else ():
        if image.resolve() not in annotated:
            findings.omit("image without a *.json", str(image.relative_to(folder)))

    findings.raise_if_any()
    if not any(annotation.shapes for annotation in annotations):
        left_out = "".join(f"; left out: {line}" for line in lines_of_left_out(findings.left_out))
        raise DataError(f"{folder}: no *.json contains a shape that covers an area{left_out}{recognized(folder)}")
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _read_annotation(path: Path, name: str, findings: Findings) -> _Annotation | None:
    """The annotation in a file, None for a file of another tool (noted).

    Raises DataError; or KeyError, TypeError, ValueError or AttributeError if it is damaged.
    """
    try:
        content = read_json(path)
        kind = kind_of(content)
    except DataError:
        content = None
        kind = kind_of_file(path)
        if kind is None:
            raise
    if not isinstance(content, dict) or not {"shapes", "imagePath"} & set(content):
        findings.omit("*.json of another tool", f"{name}: {kind.name}" if kind else name)
        return None
    shapes = _shapes(content["shapes"], findings, name)
    image_path = content.get("imagePath") or path.stem
    if not isinstance(image_path, str) or not name_in_voc(image_path):
        raise ValueError(f"imagePath is {shortened(repr(image_path))}")
    # version 3 has neither
    width = content.get("imageWidth")
    height = content.get("imageHeight")
    size = (int(width), int(height)) if width and height else None
    return _Annotation(path, image_path.replace("\\", "/"), bool(content.get("imageData")), size, shapes)


def _example(annotation: _Annotation, folder: Path, indices: dict[str, int], finder: ImageFinder) -> Example | None:
    """None if there is no image, which is noted as a problem."""
    path = annotation.path
    image = finder.find(path.parent, annotation.image_path, path.name, needed=not annotation.has_image)
    if image is None and not annotation.has_image:
        return None
    return Example(
        name=str(path.relative_to(folder).parent / Path(name_in_voc(annotation.image_path)).name),
        image=image or path,
        draw=functools.partial(_draw, path, annotation.shapes, indices),
        num_objects=len(annotation.shapes),
        stated_size=annotation.size,
        embedded=None if image else functools.partial(_embedded_image, path),
    )


def _shapes(content: list[dict[str, Any]], findings: Findings, name: str) -> list[_Shape]:
    """The shapes that cover an area; the others are left out."""
    shapes = []
    for entry in content:
        kind = entry.get("shape_type") or "polygon"  # version 3 has only polygons
        if kind not in (*_NUM_POINTS, *_NO_AREA):
            findings.omit(f"{shortened(kind)}: not a shape of labelme", name)
            continue
        check_number(len(entry["points"]))
        points = [(float(x), float(y)) for x, y in entry["points"]]
        if not all(math.isfinite(value) for point in points for value in point):
            raise ValueError(f"a {kind} with a point that is not finite")
        if kind in _NO_AREA:
            findings.omit(f"{kind}: covers no area", name)
        elif len(points) not in _NUM_POINTS[kind]:
            findings.omit(f"{kind} with {len(points)} points", name)
        elif kind == "mask" and not entry.get("mask"):
            findings.omit("mask without pixels", name)
        else:
            shapes.append(_Shape(findings.label(entry["label"]), kind, points, entry.get("mask")))
    return shapes


def _embedded_image(path: Path) -> BinaryIO:
    try:
        content = io.BytesIO(base64.b64decode(read_json(path)["imageData"]))
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError(f"{path}: imageData cannot be decoded: {error}") from error
    content.name = f"{path} (imageData)"
    return content


def _draw(path: Path, shapes: list[_Shape], indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width], drawn with the same calls of Pillow as labelme (utils/shape.py)."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        index = indices[shape.label]
        points = shape.points
        try:
            check_near_image(points, height, width)
        except ValueError as error:
            raise DataError(f"{path}: a {shape.kind} of {shape.label!r}: {error}") from error
        if shape.kind == "mask":
            _paste_mask(canvas, shape, index, path)
        elif shape.kind == "circle":  # its center, and a point on it
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=index, fill=index)
        elif shape.kind == "rectangle" and len(points) == 2:
            (left, right), (top, bottom) = (sorted(values) for values in zip(*points, strict=True))
            draw.rectangle((left, top, right, bottom), outline=index, fill=index)
        else:
            draw.polygon(points, outline=index, fill=index)
    return np.asarray(canvas)


def _paste_mask(canvas: Image.Image, shape: _Shape, index: int, path: Path) -> None:
    """Draws the non-zero pixels of a shape's PNG; its two points are its first and last pixel."""
    corners = np.sort(np.array(shape.points).astype(int), 0)
    width, height = (corners[1] - corners[0] + 1).tolist()
    name = f"{path}: a mask of {shape.label!r}"
    try:
        content = base64.b64decode(shape.mask or "")
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be decoded: {error}") from error
    with opened(name, content, formats=("PNG",)) as image:
        # One pixel of tolerance: tools differ in whether the second point belongs to the mask.
        if abs(image.height - height) > 1 or abs(image.width - width) > 1:
            raise DataError(f"{name} has {image.width}x{image.height} pixels, its points say {width}x{height}")
        check_pixels(name, image.size)
        pixels = np.asarray(image).astype(bool)
    if pixels.ndim != 2:
        raise DataError(f"{name} is a picture of mode {image.mode}, not black and white")
    canvas.paste(index, tuple(corners[0].tolist()), Image.fromarray(pixels))
