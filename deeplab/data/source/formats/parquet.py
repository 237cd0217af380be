"""Hugging Face's data sets: parquet files with a column of images and one of masks, as `datasets` writes them.

Needs pyarrow (the extra `parquet`). A value of such a column is the content of an image file, and its path.
"""

import functools
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from deeplab.data.source.classes import ClassTable
from deeplab.data.source.formats.dataset import Dataset, Example, known_split, read_json, visible
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.formats.recognition import recognized
from deeplab.data.source.masks import read_mask_content
from deeplab.errors import DataError, UsageError
from deeplab.labels import VOID_LABEL

_IMAGES = ("image", "img", "pixel_values", "picture")
_MASKS = ("mask", "label", "annotation", "labels", "segmentation", "segmentation_mask", "semantic_mask", "seg")
_NAMES = "id2label.json"


class _Table:
    """A parquet file, of which one group of rows is in memory: its images, and its masks."""

    def __init__(self, parquet: ModuleType, path: Path) -> None:
        """Raises DataError: not a parquet file, or without such columns."""
        self.path = path
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            words = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read as parquet: {words}{recognized(path)}") from error
        structs = [field for field in self._file.schema_arrow if field.type.num_fields == 2]
        images = [field.name for field in structs if {child.name for child in field.type} == {"bytes", "path"}]
        self.image = _only(images, _IMAGES)
        self.mask = _only([name for name in images if name != self.image], _MASKS)
        if not self.image or not self.mask:
            found = ", ".join(self._file.schema_arrow.names) or "none"
            raise DataError(f"{path}: no column of images and one of masks, with their content; its columns: {found}")
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._first = list(itertools.accumulate(sizes, initial=0))
        self._group = functools.lru_cache(maxsize=2)(self._read_group)

    def __len__(self) -> int:
        return self._first[-1]

    def _read_group(self, group: int, column: str) -> Any:  # noqa: ANN401  of pyarrow
        return self._file.read_row_group(group, columns=[column])[column]

    def content(self, row: int, column: str) -> bytes:
        """The content of an image file. Raises DataError."""
        group = next(number for number, first in enumerate(self._first[1:]) if row < first)
        value = self._group(group, column)[row - self._first[group]].as_py() or {}
        if not value.get("bytes"):
            raise DataError(
                f"{self.path}: row {row}: {column} holds only the path {value.get('path')!r}, of a file on the machine "
                "that wrote it; write the data set with its images: dataset.map(embed_table_storage, ...) of "
                "datasets.table, or push_to_hub"
            )
        return value["bytes"]


def _only(columns: list[str], words: tuple[str, ...]) -> str:
    """The column that is called so, else the only one; empty if neither."""
    found = next((column for word in words for column in columns if column.casefold() == word), None)
    return found or (columns[0] if len(columns) == 1 else "")


def read_parquet(folder: Path) -> Dataset:
    """All *.parquet in a folder and its subfolders; train-*, validation-* and test-*.parquet are splits.

    Masks hold class indices, and 255 for void. Their names are those in id2label.json, a dictionary from number to
    name beside the files; without it, they are class_0, class_1, ...

    Raises:
        DataError: no such files, files that hold only paths, masks that are no images.
        UsageError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet  # noqa: PLC0415  an extra, which only this format needs
    except ImportError as error:
        raise UsageError("pyarrow is needed to read parquet: pip install '.[parquet]'") from error
    paths = visible(folder, "**/*.parquet")
    if not paths:
        raise DataError(f"{folder}: contains no *.parquet{recognized(folder)}")
    tables = [_Table(parquet, path) for path in paths]
    findings = Findings()
    class_names = _class_names(folder, findings) or _numbered(tables)
    classes = ClassTable.of_names(class_names)
    examples = []
    for table in tables:
        split = known_split(table.path.name.split("-")[0].removesuffix(".parquet")) or known_split(
            table.path.parent.name
        )
        for row in range(len(table)):
            name = f"{table.path.relative_to(folder).with_suffix('')}/{row:06d}"
            draw = functools.partial(_draw, table, row, classes)
            opened = functools.partial(_image, table, row)
            # The row makes the paths of two examples differ.
            examples.append(Example(name, table.path / str(row), draw, split=split, embedded=opened))
    if not examples:
        raise DataError(f"{folder}: no row in {', '.join(path.name for path in paths)}")
    return Dataset(class_names, examples, renamed=findings.renamed)


def _class_names(folder: Path, findings: Findings) -> tuple[str, ...]:
    """The names in id2label.json; empty without it."""
    path = folder / _NAMES
    if not path.is_file():
        return ()
    content = read_json(path)
    try:
        names = {int(number): findings.label(name) for number, name in content.items()}
    except (AttributeError, ValueError) as error:
        raise DataError(f"{path}: not names by number: {error}") from error
    if sorted(names) != [*range(len(names))] or not names:
        raise DataError(f"{path}: the numbers are not 0 to {len(names) - 1}")
    return tuple(names[number] for number in range(len(names)))


def _numbered(tables: list[_Table]) -> tuple[str, ...]:
    """Names for all values in the masks."""
    anything = ClassTable((), {value: value for value in range(VOID_LABEL + 1)})
    used: Iterator[np.ndarray] = (
        np.unique(_mask(table, row, anything)) for table in tables for row in range(len(table))
    )
    largest = max((int(values[values < VOID_LABEL].max(initial=0)) for values in used), default=0)
    return tuple(f"class_{number}" for number in range(largest + 1))


def _mask(table: _Table, row: int, classes: ClassTable) -> np.ndarray:
    content = table.content(row, table.mask)
    return read_mask_content(f"{table.path}: row {row}: {table.mask}", content, classes).labels


def _draw(table: _Table, row: int, classes: ClassTable, height: int, width: int) -> np.ndarray:
    labels = _mask(table, row, classes)
    if labels.shape != (height, width):
        size = f"{labels.shape[1]}x{labels.shape[0]}"
        raise DataError(f"{table.path}: row {row}: {table.mask} has {size} pixels, its image {width}x{height}")
    return labels


def _image(table: _Table, row: int) -> BinaryIO:
    content = io.BytesIO(table.content(row, table.image))
    content.name = f"{table.path}: row {row}: {table.image}"
    return content
