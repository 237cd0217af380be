"""Data sets whose masks are images of class numbers already: Roboflow's export, Cityscapes, ADE20K."""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.formats.dataset import (
    BACKGROUND,
    Dataset,
    Example,
    LeftOut,
    Problems,
    class_table,
    clean_label,
    images_in,
    name_in_voc,
    split_folders,
)
from deeplab.data.palette import IGNORE_LABEL
from deeplab.errors import DataError

ROBOFLOW_CLASSES = "_classes.csv"

# From cityscapesscripts/helpers/labels.py, version 2.2: the ids of the 19 classes that are scored, in their order.
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
        DataError: no such export, a missing mask or class list, or class lists that differ.
    """
    problems = Problems()
    folders: Mapping[str, Path] = split_folders(folder) or {"": folder}
    tables = {split: _roboflow_classes(place / ROBOFLOW_CLASSES) for split, place in folders.items()}
    first = next(iter(tables.values()))
    for split, table in tables.items():
        if table != first:
            raise DataError(f"{folders[split] / ROBOFLOW_CLASSES}: other classes than in the other splits")
    class_names, indices = class_table(first[value] for value in sorted(first))
    values = {value: indices[label] for value, label in first.items()}
    examples = []
    for split, place in folders.items():
        for image in images_in(place):
            if image.stem.endswith("_mask"):
                continue
            mask = image.with_name(f"{image.stem}_mask.png")
            if mask.is_file():
                examples.append(_example(name_in_voc(str(image.relative_to(place))), image, mask, values, split))
            else:
                problems.add_missing(mask, image.name)
    problems.raise_if_any()
    return Dataset(class_names, examples)


def read_cityscapes(folder: Path) -> Dataset:
    """Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; its 19 scored classes, all else is void.

    The masks are *_gtFine_labelTrainIds.png, else *_gtFine_labelIds.png. `test` is left out: its labels are not public.

    Raises:
        DataError: no images, or a missing mask.
    """
    by_id = {number: IGNORE_LABEL for number in _CITYSCAPES_IDS}
    by_id |= {number: index for index, number in enumerate(CITYSCAPES_CLASSES.values())}
    by_train_id = {index: index for index in (*range(len(CITYSCAPES_CLASSES)), IGNORE_LABEL)}
    problems, examples = Problems(), []
    left_out: LeftOut = {}
    for image in images_in(folder / "leftImg8bit"):
        split, city = image.relative_to(folder / "leftImg8bit").parts[:2]
        stem = image.stem.removesuffix("_leftImg8bit")
        if split == "test":
            left_out.setdefault("test: its labels are not public", []).append(image.name)
            continue
        masks = folder / "gtFine" / split / city
        train_ids, ids = (masks / f"{stem}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds"))
        if train_ids.is_file():
            examples.append(_example(stem, image, train_ids, by_train_id, split))
        elif ids.is_file():
            examples.append(_example(stem, image, ids, by_id, split))
        else:
            problems.add_missing(ids, image.name)
    problems.raise_if_any()
    if not examples:
        raise DataError(f"{folder}: no images in leftImg8bit/train/CITY")
    return Dataset(tuple(CITYSCAPES_CLASSES), examples, left_out)


def read_ade20k(folder: Path) -> Dataset:
    """ADE20K as ADEChallengeData2016: images/training, annotations/training, ..., objectInfo150.txt; 0 is void.

    Raises:
        DataError: no images, a missing mask, or no list of classes.
    """
    class_names = _ade20k_classes(folder / "objectInfo150.txt")
    values = {0: IGNORE_LABEL} | {index + 1: index for index in range(len(class_names))}
    problems, examples = Problems(), []
    for name, split in _ADE20K_SPLITS.items():
        place = folder / "images" / name
        for image in images_in(place) if place.is_dir() else ():
            mask = (folder / "annotations" / name / image.relative_to(place)).with_suffix(".png")
            if mask.is_file():
                examples.append(_example(name_in_voc(str(image.relative_to(place))), image, mask, values, split))
            else:
                problems.add_missing(mask, image.name)
    problems.raise_if_any()
    if not examples:
        raise DataError(f"{folder}: no images in images/training or images/validation")
    return Dataset(class_names, examples)


def _ade20k_classes(path: Path) -> tuple[str, ...]:
    """The first name of each class: the last column of a table, `wall` or `building, edifice`."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        names = [row[-1].split(",")[0].strip() for row in rows[1:]]
        numbers = [int(row[0]) for row in rows[1:]]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the class names of ADE20K (it is in the archive): {error}") from error
    if numbers != [*range(1, len(names) + 1)] or not names:
        raise DataError(f"{path}: not the class names of ADE20K: the first column is not 1, 2, 3, ...")
    full = [row[-1].split(",") for row in rows[1:]]
    return tuple(
        name if names.count(name) == 1 else " or ".join(part.strip() for part in parts)
        for name, parts in zip(names, full, strict=True)
    )


def _roboflow_classes(path: Path) -> dict[int, str]:
    """Label by pixel value."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True))
        table = {int(value): clean_label(label) for value, label in filter(None, rows[1:])}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a table of pixel values and classes: {error}") from error
    if not table or BACKGROUND in list(table.values())[1:]:
        raise DataError(f"{path}: {BACKGROUND} is not its first class")
    return table


def _example(name: str, image: Path, mask: Path, values: Mapping[int, int], split: str) -> Example:
    return Example(
        name=name,
        image=image,
        draw=functools.partial(_read_mask, mask, values),
        split=split,
        stated_size=_mask_size(mask),
        is_mask=True,
    )


def _mask_size(path: Path) -> tuple[int, int] | None:
    """(width, height); None if the file is no image, which `_read_mask` reports."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _read_mask(path: Path, values: Mapping[int, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width], of a grey or palettised PNG that holds keys of `values`.

    Raises:
        DataError: unreadable, another kind of image, another size, or a value that is not in `values`.
    """
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as a mask: {error}") from error
    if mode not in ("L", "P", "1") or mask.shape != (height, width):
        found = f"mode {mode}, {mask.shape[1]}x{mask.shape[0]} pixels"
        raise DataError(f"{path}: {found}; a mask of class numbers is 8-bit grey or palettised, here {width}x{height}")
    lookup = np.zeros(256, np.uint8)
    lookup[list(values)] = list(values.values())
    foreign = np.setdiff1d(np.unique(mask), list(values))
    if foreign.size:
        raise DataError(f"{path}: value {foreign[0]}, which is not a class; classes have {_ranges(values)}")
    return lookup[mask.astype(np.uint8)]


def _ranges(values: Mapping[int, int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 8:
        return f"{', '.join(map(str, ordered[:4]))}, ..., {ordered[-1]}"
    return ", ".join(map(str, ordered))
