"""The class table: the names of the classes, and which values or colors of a mask mean which class.

A class file has one of these forms:

- Names, one per line. The first is class 0, and the values of masks are class indices; 255 is void.
- A table with one line per class, in the order of the indices: the name, a colon, and the values or colors that masks
  use for the class, separated by commas. `*` means all values or colors that are not listed. A background in any
  spelling is class 0, whichever line it is on. `void` is not a class: its pixels become 255, which is neither trained
  on nor scored:

      background: 0                  background: #000000
      cat: 1, 2                      cat: #ff0000, #800000
      dog: 255                       void: *
      void: 3, *

  A value is a whole number from 0 to 255: a palette index or a gray value. A value without a class is an error.

  Pictures show a class in the first of its colors; a class with values in a color behind these, if there is one:
  `cat: 1, 2 #ff0000`.
- `labelmap.txt`, as CVAT and Datumaro write it: `cat:250,50,83::`, the name and its color; `ignored` also means void.
  Datumaro omits the colors (`cat:::`) if they are VOC's, in the order of the lines.
- `_classes.csv`, as Roboflow writes it next to its masks: `Pixel Value, Class`, and then `1, cat`.
"""

import csv
import logging
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from deeplab.data.source import voc
from deeplab.errors import DataError, shortened
from deeplab.labels import VOID_LABEL, palette
from deeplab.text import read_lines

logger = logging.getLogger("deeplab")

Color = tuple[int, int, int]

FILE_NAMES = ("class_names.txt", "labelmap.txt")
"""Class files in the folder of a data set, used if --class_names is not given."""

BACKGROUND = "background"
VOID = "void"

MAX_NAME = 200
"""Longest name of a class, in characters; names stand in logs, pictures and TensorBoard."""

_MAX_BYTES = 2**20

_VOID_IN_LABELMAP = (VOID, "ignored")
_REST = "*"
_LABELMAP_LINE = re.compile(r"(?P<name>[^:]+):(?P<colour>\s*|\s*\d{1,9}\s*,\s*\d{1,9}\s*,\s*\d{1,9}\s*):[^:]*:[^:]*")
_NOT_IN_NAMES = re.compile(r"[:,#{}\t]")
_COLOR = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
_WITH_COLOR = re.compile(r"(?P<value>[^\s#]+)\s+(?P<color>#\S*)")
_EXAMPLE = "a line of a table is `cat: 1`, `cat: 1, 2`, `cat: #ff0000` or `void: *`"


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set.

    Attributes:
        names: class 0 first.
        values: label (a class index, or 255) of each value that masks may have; None if the table has colors.
        colors: label of each color; None if the table has values.
        rest: label of all other values or colors; None if others are errors.
        shown: `#rrggbb` of each class in pictures, empty for the usual color; no items if all are usual.
        is_plain: whether masks hold class indices, and 255 for void, as VOC's do.
        source: the file, for messages; empty if the names are not from a file.
    """

    names: tuple[str, ...]
    values: dict[int, int] | None = None
    colors: dict[Color, int] | None = None
    rest: int | None = None
    shown: tuple[str, ...] = ()
    is_plain: bool = False
    source: str = field(default="", compare=False)

    @classmethod
    def of_names(cls, names: tuple[str, ...], source: str = "") -> "ClassTable":
        """Plain classes."""
        values = {**{index: index for index in range(len(names))}, VOID_LABEL: VOID_LABEL}
        return cls(names, values, is_plain=True, source=source)

    def as_text(self) -> str:
        """Everything that decides how a mask is read; for plain classes their names, one per line."""
        names = "\n".join(self.names)
        if self.is_plain:
            return names
        labels = self.values if self.colors is None else self.colors
        return f"{names}\n{sorted((labels or {}).items())} {self.rest}"

    def if_first_is_other(self) -> str:
        """Advice for plain names of a data set such as ADE20K, whose value 0 is no class, so that they are one off."""
        if not self.is_plain or look(self.names[0]) == BACKGROUND:
            return ""
        lines = ", ".join(f"`{name}: {value}`" for value, name in enumerate(self.names[:2], 1))
        return (
            f"; if 0 in the masks is not {self.names[0]} but everything else, as in ADE20K, give --class_names a "
            f"table: `void: 0`, {lines}, ..."
        )


VOC_CLASSES = ClassTable.of_names(voc.CLASS_NAMES)


def classes_of(voc_dir: Path, class_names: Path | None) -> ClassTable:
    """The classes in the file `class_names`, else in the data set's own file, else VOC's 21; logs which.

    Raises:
        DataError: as `read_classes`.
    """
    for path in [class_names] if class_names else [voc_dir / name for name in FILE_NAMES]:
        if class_names or path.exists():
            classes = read_classes(path)
            logger.info("%s: %d classes: %s", path, len(classes.names), ", ".join(classes.names))
            return classes
    logger.info("classes: VOC's %d, since no --class_names and no %s", len(voc.CLASS_NAMES), voc_dir / FILE_NAMES[0])
    return VOC_CLASSES


def read_classes(path: Path) -> ClassTable:
    """The classes in a file of any form listed in the module's docstring.

    Raises:
        DataError: the file is missing or has none of these forms; names the line.
    """
    lines = read_lines(path, "class names", _MAX_BYTES)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: no class names; write one per line, class 0 first")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    uncommented = [(number, line) for number, line in numbered if not line.startswith("#")]
    if lines[0].replace(" ", "").casefold() == "pixelvalue,class":
        return _Builder(path).of_values(_roboflow_rows(path, numbered[1:]))
    if any(_LABELMAP_LINE.fullmatch(line) for _, line in uncommented):
        return _Builder(path, _VOID_IN_LABELMAP).of_values(_labelmap_rows(path, uncommented))
    if any(":" in line for line in lines):
        return _Builder(path).of_values(_table_rows(path, numbered))
    return _plain_names(path, lines)


Row = tuple[int, str, list[str]]
"""A line's number, the name in it, and its values as written in a table: `1`, `#ff0000`, `*`."""


def _roboflow_rows(path: Path, numbered: list[tuple[int, str]]) -> list[Row]:
    rows = []
    for number, line in numbered:
        cells = next(csv.reader([line], skipinitialspace=True)) if len(line) < 2 * MAX_NAME else []
        if len(cells) != 2:
            raise DataError(f"{path}: line {number}: {_quoted(line)} is not a pixel value and a class")
        rows.append((number, cells[1].strip(), [cells[0].strip()]))
    return rows


def _labelmap_rows(path: Path, numbered: list[tuple[int, str]]) -> list[Row]:
    rows = []
    for index, (number, line) in enumerate(numbered):
        if not _LABELMAP_LINE.fullmatch(line):
            raise DataError(f"{path}: line {number}: {_quoted(line)} is not `name:red,green,blue::` like other lines")
        name, channels, *_ = line.split(":")
        color = channels.split(",") if channels.strip() else palette()[index % 256]
        rows.append((number, name.strip(), ["#" + "".join(f"{int(channel):02x}" for channel in color)]))
    return rows


def _table_rows(path: Path, numbered: list[tuple[int, str]]) -> list[Row]:
    rows = []
    for number, line in numbered:
        name, colon, values = (part.strip() for part in line.partition(":"))
        if name.startswith("#"):
            raise DataError(f"{path}: line {number}: {_quoted(line)}: comments are not supported; {_EXAMPLE}")
        if not colon or not values:
            other_number, other = next(each for each in numbered if ":" in each[1])
            raise DataError(
                f"{path}: line {number}: {_quoted(line)} has no value, but the colon in line {other_number}, "
                f"{_quoted(other)}, makes the file a table; {_EXAMPLE}; in a list of names, no name has a colon"
            )
        rows.append((number, name, [value.strip() for value in values.split(",")]))
    return rows


def _plain_names(path: Path, lines: list[str]) -> ClassTable:
    for number, line in enumerate(lines, 1):
        if not line:
            raise DataError(f"{path}: line {number} is empty; it would shift the classes below it")
        if found := _NOT_IN_NAMES.search(line):
            raise DataError(
                f"{path}: line {number}: {_quoted(line)} is not a class name: it contains {found[0]!r}; {_EXAMPLE}"
            )
    if len(lines) > 1 and all(re.match(r"\d+\s", line) for line in lines):
        raise DataError(f"{path}: line 1: {_quoted(lines[0])}: each line begins with a number; {_EXAMPLE}")
    _check_names(path, list(enumerate(lines, 1)))
    if VOID in map(str.casefold, lines):
        logger.warning(
            "%s: void is an ordinary class here; to exclude it from training and scores, write a table with one line "
            "per class, `NAME: VALUE`",
            path,
        )
    return ClassTable.of_names(tuple(lines), str(path))


class _Builder:
    """Checks the rows of a table and builds a `ClassTable` from them."""

    def __init__(self, path: Path, void_names: tuple[str, ...] = (VOID,)) -> None:
        self._path = path
        self._void_names = void_names

    def of_values(self, rows: list[Row]) -> ClassTable:
        """The table of these rows; raises DataError that names the line."""
        # A color behind the values is for pictures.
        rows, colors_of_pictures = self._without_colors(rows)

        # Values first: names with a colon, `road: wet` and `road: dry`, are no table whose names occur twice.
        values_of = {number: [self._value(number, text) for text in texts] for number, _, texts in rows}
        _check_names(self._path, [(number, name) for number, name, _ in rows])

        # The classes in order, with the background in front.
        rows = sorted(rows, key=lambda row: look(row[1]) != BACKGROUND)
        names = tuple(name for _, name, _ in rows if name.casefold() not in self._void_names)
        if not names:
            raise DataError(f"{self._path}: no class except void")

        # Their values or colours; each belongs to one class.
        labels: dict[int | Color, int] = {}
        rest = None
        lines: dict[int | Color | None, tuple[int, str]] = {}
        for number, name, texts in rows:
            label = VOID_LABEL if name.casefold() in self._void_names else names.index(name)
            for text, value in zip(texts, values_of[number], strict=True):
                if value in lines:
                    other_number, other = lines[value]
                    raise DataError(
                        f"{self._path}: lines {other_number} and {number} both have {text}, so that masks do not tell "
                        f"{other} and {name} apart; write a table (class_names.txt or --class_names) with one line for "
                        f"it, such as `{other}: {text}`"
                    )
                lines[value] = (number, name)
                if value is None:
                    rest = label
                else:
                    labels[value] = label

        # A table has values or colours.
        values = {value: label for value, label in labels.items() if isinstance(value, int)}
        colors = {value: label for value, label in labels.items() if not isinstance(value, int)}
        if values and colors:
            raise DataError(f"{self._path}: has values and colours; use only one of the two")
        if not labels:
            raise DataError(f"{self._path}: no value except *; {_EXAMPLE}")

        # In pictures, classes have the color given, else the first of those in masks.
        first = {label: f"#{bytes(color).hex()}" for color, label in reversed(colors.items()) if label < len(names)}
        given = {names.index(name): color for name, color in colors_of_pictures.items() if name in names}
        shown = dict.fromkeys(range(len(names)) if first or given else (), "") | first | given
        return ClassTable(names, values or None, colors or None, rest, tuple(shown.values()), source=str(self._path))

    def _without_colors(self, rows: list[Row]) -> tuple[list[Row], dict[str, str]]:
        """The rows without the colors behind their values, and these colors by name; DataError for a malformed one."""
        plain: list[Row] = []
        colors = {}
        for number, name, texts in rows:
            values = texts
            if behind := _WITH_COLOR.fullmatch(texts[-1]):
                if not _COLOR.fullmatch(behind["color"]):
                    raise DataError(
                        f"{self._path}: line {number}: {_quoted(behind['color'])} is not a colour: # and six "
                        "hexadecimal digits, such as #ff0000"
                    )
                values = [*texts[:-1], behind["value"]]
                colors[name] = behind["color"].lower()
            plain.append((number, name, values))
        return plain, colors

    def _value(self, number: int, text: str) -> int | Color | None:
        """None for all other values."""
        if text == _REST:
            return None
        if color := _COLOR.fullmatch(text):
            red, green, blue = (int(channel, 16) for channel in color.groups())
            return red, green, blue
        if _NUMBER.fullmatch(text) and int(text) <= 255:
            return int(text)
        raise DataError(
            f"{self._path}: line {number}: {_quoted(text)} is neither a value from 0 to 255 nor a colour; {_EXAMPLE}; "
            "in a list of names, no name has a colon"
        )


def _check_names(path: Path, names: list[tuple[int, str]]) -> None:
    """Raises DataError for too many names, an empty name or a duplicate; warns if two names look alike."""
    if len(names) > VOID_LABEL + 1 or (len(names) > VOID_LABEL and VOID not in {name.casefold() for _, name in names}):
        raise DataError(f"{path}: {len(names)} class names; at most {VOID_LABEL}, since {VOID_LABEL} is void")
    seen: dict[str, tuple[int, str]] = {}
    for number, name in names:
        if not name:
            raise DataError(f"{path}: line {number} has no name")
        if len(name) > MAX_NAME:
            raise DataError(f"{path}: line {number}: a name of {len(name):,} characters, more than {MAX_NAME}")
        other_number, other = seen.setdefault(look(name), (number, name))
        if other_number == number:
            continue
        if other == name:
            raise DataError(f"{path}: duplicate class name {name!r} (lines {other_number} and {number})")
        logger.warning(
            "%s: the class names %r and %r (lines %d and %d) look alike; are they one class?",
            path,
            other,
            name,
            other_number,
            number,
        )


def _quoted(line: str) -> str:
    return shortened(repr(line))


def look(name: str) -> str:
    """A form that is equal for names that look alike: it ignores case, blanks, `_`, `-` and Unicode form."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
