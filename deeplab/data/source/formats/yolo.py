"""Ultralytics' YOLO segmentation: data.yaml, images, and one text file per image with one outline per line.

A line is a class number and x, y of each point, as fractions of width and height. Needs PyYAML (the extra `yolo`).
"""

import functools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deeplab.data.source.bounds import Bounds
from deeplab.data.source.classes import VOID
from deeplab.data.source.formats.boxes import BoxRule
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    class_table,
    images_in,
    name_in_voc,
)
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError, UsageError, shortened
from deeplab.text import read_lines, read_text

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_NAMES = "classes.txt"
_TOLERANCE = 0.01
"""How far outside 0..1 a coordinate may be, as in Ultralytics."""
_MAX_BYTES = 2**17  # of data.yaml: 255 names of classes, and scripts
_MAX_DEPTH = 20


@dataclass(frozen=True)
class _Outline:
    label: str
    points: list[tuple[float, float]]  # fractions of width and height
    is_box: bool = False


def read_yolo(path: Path, boxes: str | None = None, strict: bool = False, allow_outside: bool = False) -> Dataset:
    """The data set that a data.yaml describes; its classes follow background, and later lines lie in front.

    Images without a text file, or with an empty one, are only background, as in Ultralytics.

    Args:
        path: data.yaml; or classes.txt, or its folder.
        boxes: the meaning of a line with a box (class, center, size), one of `boxes.MEANINGS`; None refuses boxes.
        strict: refuse what would be left out.
        allow_outside: also read files outside the folder of data.yaml.

    Raises:
        DataError: unreadable files or such outside, unknown classes, coordinates that are not fractions, boxes if
            `boxes` is None.
        UsageError: PyYAML is not installed.
    """
    path, content = _description(path)
    findings = Findings(strict)
    labels = _labels(path, content, findings)
    class_names, indices = class_table(labels)
    rule = BoxRule(boxes, findings)
    bounds = Bounds((path.parent,), allow_outside)
    examples = []
    num_objects = 0
    for key, split in _SPLIT_KEYS.items():
        for root, image in _images(path, content, key, bounds):
            if not image.is_file():
                findings.add_missing(image, path.name)
                continue
            text = _label_path(image)
            for file in (image, text):
                bounds.check(file, path)
            outlines = _read_outlines(text, labels, rule, findings)
            num_objects += len(outlines)
            if not text.is_file():
                findings.omit("no label file: image taken as background only", str(image))
            examples.append(
                Example(
                    name=name_in_voc(str(image.relative_to(root))),
                    image=image,
                    draw=functools.partial(_draw, outlines, indices),
                    num_objects=len(outlines),
                    split=split,
                )
            )
    rule.check(num_objects)
    findings.raise_if_any()
    if not num_objects:
        if not examples:
            raise DataError(f"{path}: no images; add a line such as `train: images`, the folder of the images")
        raise DataError(f"{path}: {len(examples)} images, no outline in {_label_path(examples[0].image)} and the like")
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _description(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file that describes the data set, and its content; without splits, the images are in images/ beside it.

    Label Studio writes classes.txt, the names, instead of a data.yaml.
    """
    if path.is_dir() and not (path / "data.yaml").is_file() and (path / _NAMES).is_file():
        path = path / _NAMES
    if path.name == _NAMES:
        content: dict[str, Any] = {"names": [line for line in read_lines(path, "names of classes") if line]}
    else:
        content = _read_yaml(path)
    if not any(content.get(key) for key in _SPLIT_KEYS) and (path.parent / "images").is_dir():
        content = {**content, "train": "images"}
    return path, content


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a data.yaml{recognized(path)}")
    try:
        import yaml  # noqa: PLC0415  an extra, which only this format needs
    except ImportError as error:
        raise UsageError("PyYAML is needed to read data.yaml: pip install '.[yolo]'") from error
    try:
        text = read_text(path, "YAML", _MAX_BYTES)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
        _check_plain(yaml.parse(text, loader))
        content = yaml.load(text, loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        words = shortened(" ".join(str(error).split()), 200)
        raise DataError(f"{path}: cannot be read as YAML: {words}{recognized(path)}") from error
    if isinstance(content, dict) and content.get("kpt_shape"):
        raise DataError(f"{path}: kpt_shape: labels for poses, not for outlines")
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{path}: not a data.yaml of YOLO: no `names`{recognized(path)}")
    return content


def _check_plain(events: Iterable[Any]) -> None:
    """Raises ValueError for aliases, of which a few lines can make an endless list, and for deep nesting."""
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith("StartEvent")
        depth -= name.endswith("EndEvent")
        if name == "AliasEvent":
            raise ValueError("an alias (*), which is not supported")
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH}")


def _labels(path: Path, content: dict[str, Any], findings: Findings) -> list[str]:
    """Label by class number; `names` is a list, or a dictionary from number to name."""
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{path}: names: the numbers are not 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names: neither a list nor a dictionary of class names")
    try:
        labels = [findings.label(name) for name in names]
    except ValueError as error:  # YAML reads yes, no, on and off as true and false
        raise DataError(f"{path}: names: {error}; put it into quotes") from error
    repeated = next((label for number, label in enumerate(labels) if label in labels[:number]), None)
    if repeated is not None:
        raise DataError(f"{path}: names: duplicate name {repeated!r}")
    return labels


def _images(path: Path, content: dict[str, Any], key: str, bounds: Bounds) -> list[tuple[Path, Path]]:
    """(folder that names are relative to, image) of a split: a folder, a text file of one path per line, or several."""
    entries = content.get(key) or []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _place(path, content, str(entry), bounds)
        if place.is_dir():
            found += [(place, image) for image in images_in(place)]
            continue
        for line in filter(None, read_lines(place, "list of images")):
            image = Path(line.replace("\\", "/"))
            image = image if image.is_absolute() else place.parent / image
            parts = image.parts
            root = Path(*parts[: _last_images(parts) + 1]) if "images" in parts else place.parent
            found.append((root, image))
    return found


def _place(path: Path, content: dict[str, Any], entry: str, bounds: Bounds) -> Path:
    """The path that an entry of data.yaml means, by Ultralytics' rules and by the rules that exports rely on.

    It is relative to `path`, else to the folder of data.yaml; Roboflow's `../train/images` means `train/images`, also
    if there is a folder `train/images` of something else beside that of data.yaml.

    Raises:
        DataError: it does not exist, or is outside the bounds.
    """
    folder = path.parent
    roots = [folder / str(content.get("path") or "."), folder]
    entries = [entry, entry.removeprefix("../")]
    places = [root / each for root in roots for each in entries]
    there = [place for place in places if os.path.exists(place)]  # noqa: PTH110  no error for a name that is too long
    if not there:
        tried = ", ".join(shortened(place, 200) for place in dict.fromkeys(places))
        raise DataError(f"{path}: {shortened(entry)}: no such folder or file ({tried})")
    held = [place for place in there if bounds.hold(place)]
    found = held[0] if held and entry.startswith("../") else there[0]
    bounds.check(found, path)
    return found


def _last_images(parts: tuple[str, ...]) -> int:
    return len(parts) - 1 - parts[::-1].index("images")


def _label_path(image: Path) -> Path:
    """images/x.jpg -> labels/x.txt; only the last folder `images` of the path counts."""
    parts = image.parts
    if "images" in parts:
        place = _last_images(parts)
        image = Path(*parts[:place], "labels", *parts[place + 1 :])
    return image.with_suffix(".txt")


def _read_outlines(path: Path, labels: list[str], rule: BoxRule, findings: Findings) -> list[_Outline]:
    if not path.is_file():
        return []
    try:
        lines = read_lines(path, "outlines")
    except DataError as error:
        findings.add(str(error))
        return []
    outlines = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                outlines += _outline(line.split(), labels, rule, findings, path.name)
        except ValueError as error:
            findings.add(f"{path}: line {number}: {shortened(error, 200)}")
    return outlines


def _outline(fields: list[str], labels: list[str], rule: BoxRule, findings: Findings, name: str) -> list[_Outline]:
    """The outline of a line; none if it covers no area (noted)."""
    number = float(fields[0])
    if number not in range(len(labels)):
        raise ValueError(f"class {shortened(fields[0])}, but data.yaml names {len(labels)} (0 to {len(labels) - 1})")
    label = labels[int(number)]

    # Coordinates are shares of the image.
    values = [float(value) for value in fields[1:]]
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        worst = max(values, key=lambda value: math.inf if math.isnan(value) else abs(value - 0.5))
        raise ValueError(f"coordinate {worst:g} is not a fraction of the image (0 to 1)")

    # Four of them are a box: centre and size.
    if len(values) == 4:
        x, y, width, height = values
        box_label = rule.label(label, name)
        if box_label is None and rule.has_meaning:
            return []
        left = x - width / 2
        top = y - height / 2
        right = x + width / 2
        bottom = y + height / 2
        return [_Outline(box_label or label, [(left, top), (right, top), (right, bottom), (left, bottom)], is_box=True)]

    # More are an outline.
    if len(values) % 2:
        raise ValueError(f"{len(values)} coordinates; an outline has two per point, a box four")
    if len(values) < 6:
        findings.omit("outline with fewer than 3 points", name)
        return []
    return [_Outline(label, list(zip(values[::2], values[1::2], strict=True)))]


def _draw(outlines: list[_Outline], indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width]; void boxes lie behind everything else."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for outline in sorted(outlines, key=lambda each: not (each.is_box and indices[each.label] == indices[VOID])):
        index = indices[outline.label]
        # Fractions of six decimals do not restore whole pixels: 0.458333 * 120 is 54.99996.
        draw.polygon(
            [(round(x * width, 2), round(y * height, 2)) for x, y in outline.points], outline=index, fill=index
        )
    return np.asarray(canvas)
