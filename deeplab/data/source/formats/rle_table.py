"""Tables of run lengths as in Kaggle's competitions: a CSV file with an image, perhaps a class, and runs in each row.

Runs are pairs of a start and a length; pixels are counted from 1, down the columns, from left to right.
"""

import csv
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplab.data.source.formats.areas import Drawn, Patch, draw, run_lengths
from deeplab.data.source.formats.dataset import Dataset, Example, ImageFinder, class_table, name_in_voc
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError, shortened
from deeplab.text import read_text

_RUNS = ("encodedpixels", "rle", "rle_mask", "mask")
_OF_EITHER_ORDER = ("annotation", "segmentation")
"""Columns whose runs go along the rows in some competitions, such as Sartorius's: nothing in the table tells."""
_IMAGES = ("image_id", "imageid", "image", "img", "filename", "file_name", "id")
_CLASSES = ("classid", "class_id", "class", "label", "category", "category_id")
_EMPTY = ("", "-1", "nan", "none")
_ONLY_CLASS = "object"
_SIZE = re.compile("[0-9]{1,9}")
_LONGEST_FIELD = 1 << 30  # characters; Python's csv takes 131,072


@dataclass
class _Picture:
    size: tuple[int, int] | None
    objects: list[Drawn] = field(default_factory=list)


def read_rle_table(path: Path, image_dir: Path | None = None) -> Dataset:
    """The images of a table; later rows lie in front, and an image with empty rows is background.

    A column of both, such as `ImageId_ClassId`, is split at its last `_`. Without classes, the only one is `object`.
    Images are found in `image_dir`, else beside the file.

    Raises:
        DataError: no such columns, damaged runs, missing images.
    """
    findings = Findings()
    pictures: dict[str, _Picture] = {}
    for line, row in _rows(path):
        try:
            image, label, runs, size = row
            if not name_in_voc(image):
                raise ValueError(f"the image {image!r}")
            picture = pictures.setdefault(image, _Picture(size))
            if runs.strip().casefold() not in _EMPTY:
                numbers = run_lengths(runs.split())
                if len(numbers) % 2:
                    raise ValueError(f"{len(numbers)} numbers; each run has two")
                area = functools.partial(_down_columns, numbers)
                picture.objects.append(Drawn(findings.label(label), area))
        except ValueError as error:
            findings.add(f"{path}: line {line}: {error}")
    labels = itertools.chain.from_iterable((drawn.label for drawn in each.objects) for each in pictures.values())
    class_names, indices = class_table(sorted(set(labels)))
    finder = ImageFinder(findings)
    examples = []
    for name, picture in pictures.items():
        image_file = finder.find(image_dir or path.parent, name, path.name)
        if image_file is not None:
            draw_these = functools.partial(draw, f"{path}: {shortened(name)}", picture.objects, indices)
            examples.append(
                Example(name_in_voc(name), image_file, draw_these, len(picture.objects), stated_size=picture.size)
            )
    findings.raise_if_any()
    if not any(picture.objects for picture in pictures.values()):
        raise no_area(path, findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str, tuple[int, int] | None]]]:
    """(line, (image, label, runs, (width, height) or None)) of each row. Raises DataError."""
    records = _records(path)

    # The header tells where the image, the class and the runs are.
    header = [name.strip().casefold() for name in next(records, (0, []))[1]]
    runs = _column(header, _RUNS)
    image = _column(header, _IMAGES)
    label = _column(header, _CLASSES)
    both = next((number for number, name in enumerate(header) if name in ("imageid_classid", "image_label")), None)
    if runs is None or (image is None and both is None):
        if named := next((name for name in header if name in _OF_EITHER_ORDER), None):
            raise DataError(
                f"{path}: the runs of a column {named!r} go along the rows in some competitions, as in Sartorius's; if "
                "they go down the columns, call it rle, else draw them into masks"
            )
        found = shortened(", ".join(header), 200) or "nothing"
        raise DataError(f"{path}: no columns of images and of run lengths; its header has {found}{recognized(path)}")

    # The rows.
    sides = [_column(header, (side,)) for side in ("width", "height")]
    for line, row in records:
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(f"{path}: line {line}: {len(row)} fields, but the header has {len(header)}")
        if both is not None:
            name, _, class_name = row[both].rpartition("_")
        else:
            name = row[image or 0]
            class_name = _ONLY_CLASS if label is None else row[label]
        width, height = (int(row[side]) if side is not None and _SIZE.fullmatch(row[side]) else None for side in sides)
        yield line, (name, class_name, row[runs], (width, height) if width and height else None)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of the last line of each row, and its fields. Raises DataError."""
    csv.field_size_limit(_LONGEST_FIELD)
    # Line by line: io.StringIO would take four bytes per character, and a list of lines the text once more.
    lines = re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", read_text(path, "CSV"))
    reader = csv.reader(match[0] for match in lines)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _down_columns(numbers: np.ndarray, height: int, width: int) -> Patch:
    """Pixels from the starts and lengths of runs, which count from 1 down the columns."""
    starts, lengths = numbers.astype(np.int64).reshape(-1, 2).T
    ends = starts + lengths - 1
    if len(starts) and (starts.min() < 1 or lengths.min() < 1 or ends.max() > height * width):
        bad = np.flatnonzero((starts < 1) | (lengths < 1) | (ends > height * width))[0]
        raise ValueError(f"the run {starts[bad]} {lengths[bad]} does not lie in the {height * width:,} pixels")
    changes = np.zeros(height * width + 1, np.int32)
    np.add.at(changes, starts - 1, 1)
    np.add.at(changes, ends, -1)
    return Patch(0, 0, np.cumsum(changes[:-1]).reshape(width, height).T > 0)
