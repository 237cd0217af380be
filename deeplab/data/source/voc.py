"""The PASCAL VOC layout: class names, split lists, image and mask files.

A list has one name per line, like VOC's: `2007_000032`. To accept lists of other tools unchanged, a name may have an
image's ending (`img_004.jpg`) or subfolders (`day1/img_000`, which is then the example's name), or a line may give two
paths from the data set's folder, of an image and its mask (`/JPEGImages/a.jpg /SegmentationClass/a.png`), which may
contain blanks.
"""

import logging
import os
import random
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deeplab.data.source import images
from deeplab.data.source.bounds import Bounds
from deeplab.data.source.folders import Folder, normal_form
from deeplab.errors import DataError, shortened
from deeplab.files import is_relative_name
from deeplab.text import read_lines

logger = logging.getLogger("deeplab")

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 21 classes of VOC 2012 in the order of their indices (VOC devkit, VOCinit.m)."""

IMAGE_FOLDER = "JPEGImages"
MASK_FOLDER = "SegmentationClass"
MASK_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of mask files, in lower or upper case."""

_SEPARATOR = re.compile(r"[\s,;]+")
_LONGEST_LINE = 8192
"""Characters; two paths, each as long as systems allow."""
_SPLIT_HALVES = {"val_half": 0, "test_half": 1}


class Pair(NamedTuple):
    """One example on disk: an image and its mask.

    The paths are text: a `Path` takes several times the memory, and a data set may have a million of them.

    Attributes:
        name: its name in the split's list, with slashes for subfolders and without an ending.
        image_file: where its image is, or should be.
        mask_file: where its mask is, or should be.
        problem: why one of the files was not found, and what was found instead; empty if both were found.
    """

    name: str
    image_file: str
    mask_file: str
    problem: str = ""

    @property
    def image(self) -> Path:
        """Where its image is, or should be."""
        return Path(self.image_file)

    @property
    def mask(self) -> Path:
        """Where its mask is, or should be."""
        return Path(self.mask_file)


class _Entry(NamedTuple):
    """A line of a list: the example's name, and the files if the line gives their paths."""

    name: str
    image_file: str = ""
    mask_file: str = ""


def read_split(voc_dir: Path, split: str, mask_dir: Path | None = None) -> list[str]:
    """Names of a split's examples, in the order of its list file.

    `split` names a file in ImageSets/Segmentation without `.txt`. Without such a file, `trainval` is `train` followed
    by `val`; `val_half` and `test_half` are the two halves of `val` after `random.seed(42); random.shuffle(names)`
    (TensorFlow in Action, chapter 8); `trainaug` is every image with a mask in `mask_dir`. `trainaug` never includes
    examples of `val`.

    Raises:
        DataError: no such split, an empty split, an unsafe or duplicate name, or a line that is not a name.
    """
    return [entry.name for entry in _read_entries(voc_dir, split, mask_dir, Folder(voc_dir / IMAGE_FOLDER))]


def pairs(voc_dir: Path, split: str, mask_dir: Path | None = None) -> list[Pair]:
    """The image and mask of every example of a split; masks are in `voc_dir`/SegmentationClass or in `mask_dir`.

    Raises:
        DataError: as `read_split`. `Pair.problem` reports a missing file.
    """
    image_folder = Folder(voc_dir / IMAGE_FOLDER)
    mask_folder = Folder(mask_dir or voc_dir / MASK_FOLDER, MASK_ENDINGS)
    return [_pair(entry, image_folder, mask_folder) for entry in _read_entries(voc_dir, split, mask_dir, image_folder)]


def split_images(voc_dir: Path, split: str) -> list[tuple[str, Path]]:
    """(name, image) of every example of a split; masks are not needed.

    Raises:
        DataError: as `read_split`, or an image is missing.
    """
    folder = Folder(voc_dir / IMAGE_FOLDER)
    return [
        (entry.name, Path(entry.image_file or folder.find(entry.name)))
        for entry in _read_entries(voc_dir, split, None, folder)
    ]


def _pair(entry: _Entry, image_folder: Folder, mask_folder: Folder) -> Pair:
    problems: list[str] = []
    image = entry.image_file or _found(image_folder, entry.name, problems)
    mask = entry.mask_file or _found(mask_folder, entry.name, problems)
    return Pair(entry.name, image, mask, problems[0] if problems else "")


def _found(folder: Folder, name: str, problems: list[str]) -> str:
    """The file of an example, or where it should be, with its problem."""
    try:
        return folder.find(name)
    except DataError as error:
        problems.append(str(error))
        return folder.usual(name)


def _read_entries(voc_dir: Path, split: str, mask_dir: Path | None, image_folder: Folder) -> list[_Entry]:
    folder = voc_dir / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if path.exists():
        lines = read_lines(path, "split")
        _check_distinct(path, list(filter(None, lines)))
        bounds = Bounds(
            tuple(filter(None, (voc_dir, image_folder.path, voc_dir / MASK_FOLDER, mask_dir))),
            advice="move or link the folder of the files there",
        )
        entries = [
            _ListLine(path, number, line, image_folder).entry(voc_dir, bounds)
            for number, line in enumerate(lines, 1)
            if line
        ]
    elif split == "trainval":
        entries = [entry for part in ("train", "val") for entry in _read_entries(voc_dir, part, None, image_folder)]
    elif split in _SPLIT_HALVES:
        entries = _read_entries(voc_dir, "val", None, image_folder)
        random.Random(42).shuffle(entries)
        half = len(entries) // 2
        entries = (entries[:half], entries[half:])[_SPLIT_HALVES[split]]
    elif split == "trainaug" and mask_dir is not None:
        visible = (file for file in mask_dir.glob("*.png") if not file.name.startswith("."))
        entries = [_Entry(name) for name in sorted(file.stem for file in visible)]
    else:
        found = sorted(file.stem for file in folder.glob("*.txt"))
        hint = f"found: {', '.join(found)}" if found else f"no list files in {folder}; is --voc_dir right?"
        raise DataError(f"{path}: no such split; {hint}")

    # SBD's images overlap with VOC's val.
    if split == "trainaug":
        in_val = {normal_form(name) for name in read_split(voc_dir, "val")}
        with_val = entries
        entries = [entry for entry in entries if normal_form(entry.name) not in in_val]
        logger.info("trainaug: %d images; %d left out, since val has them", len(entries), len(with_val) - len(entries))
    _check_names(path, [entry.name for entry in entries])
    return entries


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise DataError(f"{path}: the split is empty")
    for name in names:
        if not is_relative_name(name):
            raise DataError(f"{path}: {shortened(repr(name))} is not a plain file name or one in a subfolder")
    _check_distinct(path, names)


def _check_distinct(path: Path, names: list[str]) -> None:
    if len(set(map(normal_form, names))) == len(names):
        return
    seen: dict[str, int] = {}
    for number, name in enumerate(map(normal_form, names), 1):
        if name in seen:
            places = f"{seen[name]} and {number}"
            raise DataError(f"{path}: duplicate name {shortened(repr(name))}, examples {places} of it")
        seen[name] = number


class _ListLine:
    """A line of a split's list, which names an example."""

    def __init__(self, path: Path, number: int, line: str, image_folder: Folder) -> None:
        self._where = f"{path}: line {number}"
        self._text = line.replace("\\", "/")  # as Windows writes paths
        self._images = image_folder

    def entry(self, voc_dir: Path, bounds: Bounds) -> _Entry:
        """The entry of this line; raises DataError if it is neither a name nor two paths within the bounds."""
        if len(self._text) > _LONGEST_LINE:
            raise DataError(f"{self._where}: {len(self._text):,} characters, more than {_LONGEST_LINE:,}")
        if entry := self._named(self._text):
            return entry
        if files := self._pair(voc_dir):
            for file in files:
                bounds.check(file, self._where)
            return _Entry(self._name_of(files[0], voc_dir), *map(str, files))
        if self._text.startswith("#"):
            raise DataError(
                f"{self._where}: {shortened(repr(self._text))}: comments are not supported; write one name per line"
            )
        columns = _SEPARATOR.split(self._text)
        looks_like_pair = any(_is_image_and_mask(Path(left), Path(right)) for left, right in self._halves())
        if len(columns) > 1 and (looks_like_pair or self._named(columns[0])):
            raise DataError(
                f"{self._where}: {len(columns)} columns ({shortened(repr(self._text))}); expected one name per "
                f"line, or the paths of an image and its mask from {voc_dir}, which must exist"
            )
        return _Entry(_without_ending(self._text))

    def _pair(self, voc_dir: Path) -> tuple[Path, Path] | None:
        """The image and mask that the line names; None if it names none, or it is unclear which.

        Paths may contain blanks, so that any separator may be the one between them: that where both files exist, else
        that where one does and the other has the ending of its kind, so that it is named as missing.
        """
        pairs = [(_path(left, voc_dir), _path(right, voc_dir)) for left, right in self._halves()]
        both = [pair for pair in pairs if all(map(_is_file, pair))]
        one = [pair for pair in pairs if any(map(_is_file, pair)) and _is_image_and_mask(*pair)]
        found = both or one
        return found[0] if len(found) == 1 else None

    def _halves(self) -> list[tuple[str, str]]:
        """The text before and after each separator."""
        return [(self._text[: each.start()], self._text[each.end() :]) for each in _SEPARATOR.finditer(self._text)]

    def _named(self, text: str) -> _Entry | None:
        """The entry if the text names an image that exists; else None."""
        if not is_relative_name(text := text.removeprefix("./")):
            return None
        for name in (text, text.removeprefix(f"{IMAGE_FOLDER}/")):
            found = self._images.get(name)
            if found is not None:
                return _Entry(name, found)
            stem = _without_ending(name)
            if stem != name and self._images.has(stem):
                file = self._images.path / name
                return _Entry(stem, str(file) if _is_file(file) else "")
        return None

    def _name_of(self, image: Path, voc_dir: Path) -> str:
        for folder in (self._images.path, voc_dir):
            if image.is_relative_to(folder):
                return _without_ending(image.relative_to(folder).as_posix())
        return image.stem


def _path(text: str, voc_dir: Path) -> Path:
    """The path that a list means: from the data set's folder, even with a slash in front, unless it is absolute."""
    from_folder = voc_dir / text.lstrip("/")
    return Path(text) if text.startswith("/") and not _is_file(from_folder) and _is_file(Path(text)) else from_folder


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  no error for text that cannot be a path


def _is_image_and_mask(image: Path, mask: Path) -> bool:
    return image.suffix.lower() in images.ENDINGS and mask.suffix.lower() in MASK_ENDINGS


def _without_ending(name: str) -> str:
    path = PurePosixPath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in images.ENDINGS else name
