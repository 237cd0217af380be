"""Data sets whose masks already are images of class numbers: Roboflow's export, Cityscapes, ADE20K."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deeplab.data.source.classes import ClassTable, read_classes
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    images_in,
    name_in_voc,
    split_folders,
)
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.formats.recognition import recognized
from deeplab.data.source.images import ImageFile
from deeplab.data.source.masks import read_mask
from deeplab.errors import DataError
from deeplab.labels import VOID_LABEL
from deeplab.text import read_lines

ROBOFLOW_CLASSES = "_classes.csv"

# From cityscapesscripts/helpers/labels.py, version 2.2: the ids of the 19 scored classes, in order.
CITYSCAPES_CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic_light": 19,
    "traffic_sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_CITYSCAPES_IDS = range(34)
_ADE20K_SPLITS = {"training": "train", "validation": "val"}


def read_roboflow(folder: Path) -> Dataset:
    """Roboflow's "Semantic Segmentation Masks": train/, valid/, test/ with NAME.jpg, NAME_mask.png and _classes.csv.

    Raises:
        DataError: not such an export, a missing mask or class list, or class lists that differ.
    """
    findings = Findings()
    folders: Mapping[str, Path] = split_folders(folder) or {"": folder}
    for place in folders.values():
        if not (place / ROBOFLOW_CLASSES).is_file():
            raise DataError(f"{place / ROBOFLOW_CLASSES}: no such file (class names){recognized(folder)}")
    tables = {split: read_classes(place / ROBOFLOW_CLASSES) for split, place in folders.items()}
    classes = next(iter(tables.values()))
    for split, table in tables.items():
        if table != classes:
            raise DataError(f"{folders[split] / ROBOFLOW_CLASSES}: classes differ from the other splits")
    examples = []
    for split, place in folders.items():
        for image in images_in(place):
            if image.stem.endswith("_mask"):
                continue
            mask = image.with_name(f"{image.stem}_mask.png")
            if mask.is_file():
                examples.append(
                    example_of_mask(name_in_voc(str(image.relative_to(place))), image, mask, classes, split)
                )
            else:
                findings.add_missing(mask, image.name)
    findings.raise_if_any()
    class_names = tuple(map(findings.label, classes.names))
    return Dataset(class_names, examples, renamed=findings.renamed)


def read_cityscapes(folder: Path) -> Dataset:
    """Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; its 19 scored classes, everything else is void.

    The masks are *_gtFine_labelTrainIds.png, else *_gtFine_labelIds.png. `test` is left out: its labels are not public.

    Raises:
        DataError: no images, or a missing mask.
    """
    class_names = tuple(CITYSCAPES_CLASSES)
    ids = dict.fromkeys(_CITYSCAPES_IDS, VOID_LABEL)
    ids |= {number: index for index, number in enumerate(CITYSCAPES_CLASSES.values())}
    tables = {"labelTrainIds": ClassTable.of_names(class_names), "labelIds": ClassTable(class_names, ids)}
    findings = Findings()
    examples = []
    for image in images_in(folder / "leftImg8bit"):
        split, city = image.relative_to(folder / "leftImg8bit").parts[:2]
        stem = image.stem.removesuffix("_leftImg8bit")
        if split == "test":
            findings.omit("test: its labels are not public", image.name)
            continue
        masks = folder / "gtFine" / split / city
        found = {kind: masks / f"{stem}_gtFine_{kind}.png" for kind in tables}
        kind = next((kind for kind, mask in found.items() if mask.is_file()), None)
        if kind is None:
            findings.add_missing(found["labelIds"], image.name)
        else:
            examples.append(example_of_mask(stem, image, found[kind], tables[kind], split))
    findings.raise_if_any()
    if not examples:
        raise DataError(f"{folder}: no images in leftImg8bit/train/CITY")
    return Dataset(class_names, examples, findings.left_out)


def read_ade20k(folder: Path) -> Dataset:
    """ADE20K as ADEChallengeData2016: images/training, annotations/training, ..., objectInfo150.txt; 0 is void.

    Raises:
        DataError: no images, a missing mask, or no class list.
    """
    class_names = _ade20k_classes(folder / "objectInfo150.txt")
    classes = ClassTable(class_names, {0: VOID_LABEL} | {index + 1: index for index in range(len(class_names))})
    findings = Findings()
    examples = []
    for name, split in _ADE20K_SPLITS.items():
        place = folder / "images" / name
        for image in images_in(place) if place.is_dir() else ():
            mask = (folder / "annotations" / name / image.relative_to(place)).with_suffix(".png")
            if mask.is_file():
                examples.append(
                    example_of_mask(name_in_voc(str(image.relative_to(place))), image, mask, classes, split)
                )
            else:
                findings.add_missing(mask, image.name)
    findings.raise_if_any()
    if not examples:
        raise DataError(f"{folder}: no images in images/training or images/validation")
    return Dataset(class_names, examples)


def _ade20k_classes(path: Path) -> tuple[str, ...]:
    """The first name of each class: the last column of a table, `wall` or `building, edifice`."""
    try:
        rows = [line.split("\t") for line in read_lines(path, "class names of ADE20K, which its archive has") if line]
        names = [row[-1].split(",")[0].strip() for row in rows[1:]]
        numbers = [int(row[0]) for row in rows[1:]]
    except ValueError as error:
        raise DataError(f"{path}: not the class names of ADE20K: {error}") from error
    if numbers != [*range(1, len(names) + 1)] or not names:
        raise DataError(f"{path}: not the class names of ADE20K: the first column is not 1, 2, 3, ...")
    full = [row[-1].split(",") for row in rows[1:]]
    return tuple(
        name if names.count(name) == 1 else " or ".join(part.strip() for part in parts)
        for name, parts in zip(names, full, strict=True)
    )


def example_of_mask(name: str, image: Path, mask: Path, classes: ClassTable, split: str) -> Example:
    """An example whose annotation is a mask file, which the class table explains."""
    return Example(
        name=name,
        image=image,
        draw=functools.partial(_read_labels, mask, classes),
        split=split,
        stated_size=_size(mask),
        mask=mask,
    )


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height); None if the file is not an image, which `_read_labels` reports."""
    try:
        return ImageFile(path).size
    except DataError:
        return None


def _read_labels(path: Path, classes: ClassTable, height: int, width: int) -> np.ndarray:
    labels = read_mask(path, classes).labels
    if labels.shape != (height, width):
        raise DataError(f"{path}: {labels.shape[1]}x{labels.shape[0]} pixels, its image is {width}x{height}")
    return labels
