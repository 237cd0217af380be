"""The result of every reader: classes, examples that can draw their masks, and what else the reader found."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from deeplab.data.source.classes import BACKGROUND, VOID, look
from deeplab.data.source.folders import Folder
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.formats.recognition import recognized
from deeplab.data.source.images import ENDINGS, ImageFile
from deeplab.errors import DataError, shortened
from deeplab.labels import VOID_LABEL
from deeplab.text import read_text

logger = logging.getLogger("deeplab")

_MAX_POINTS = 100_000
_MAX_TURNS = 100
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class Example:
    """An image and the way to draw its mask.

    Attributes:
        name: name of its files in the VOC folder: a path with `/`, without an ending.
        image: the image file, or the annotation file that contains the image.
        draw: (height, width) -> class indices, uint8 [height, width]; raises DataError.
        num_objects: number of objects that `draw` draws; 0 if the format has only pixels.
        split: its split in the data set; empty if unknown.
        stated_size: (width, height) in the annotation, or of the mask file; None without either.
        mask: the annotation if it is a mask file, so that only its size can show whether it is turned by EXIF.
        embedded: opens the image inside `image`; None if `image` is an image file.
    """

    name: str
    image: Path
    draw: Callable[[int, int], np.ndarray]
    num_objects: int = 0
    split: str = ""
    stated_size: tuple[int, int] | None = None
    mask: Path | None = None
    embedded: Callable[[], BinaryIO] | None = None

    def open_image(self) -> ImageFile:
        """The image with only its header decoded; raises DataError."""
        return ImageFile(self.image if self.embedded is None else self.embedded())


@dataclass(frozen=True)
class Dataset:
    """All examples of a data set; what was left out and what renamed, as in `Findings`."""

    class_names: tuple[str, ...]
    examples: list[Example]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)


def class_table(labels: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, background first, and the index of each label; void is 255.

    The labels are cleaned, and keep their order.

    Raises:
        DataError: more classes than there are indices.
    """
    labels = tuple(dict.fromkeys(labels))
    names = (BACKGROUND, *(label for label in labels if label not in (BACKGROUND, VOID)))
    if len(names) > VOID_LABEL:
        raise DataError(f"{len(names)} classes; at most {VOID_LABEL}, since {VOID_LABEL} is void")
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(look(name), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            logger.warning("classes that look alike: %s; each becomes a separate class", ", ".join(map(repr, group)))
    indices = {name: index for index, name in enumerate(names)}
    return names, indices | {BACKGROUND: 0, VOID: VOID_LABEL}


def split_name(name: str) -> str:
    """The split that the name of a folder or file means: `valid` -> val, `train2017` -> train; others are kept."""
    word = name.casefold().rstrip("0123456789_-")
    word = _SPLIT_NAMES.get(word, word)
    return word if word in ("train", "val", "test") else name


def known_split(name: str) -> str:
    """As `split_name`, but empty for any other name than those of train, val and test."""
    split = split_name(name)
    return split if split in ("train", "val", "test") else ""


def split_folders(folder: Path) -> dict[str, Path]:
    """The existing folders train, val (or valid) and test in `folder`, by split name."""
    found = {split_name(path.name): path for path in visible(folder) if path.is_dir()}
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files and folders that match, sorted, without hidden ones (`._a.json` of macOS) and contents of hidden folders.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    hidden = (path for path in folder.glob(pattern) if not _is_hidden(path.relative_to(folder)))
    return sorted(hidden)


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, by their endings, sorted.

    Raises:
        DataError: no such folder.
    """
    return [path for path in visible(folder, "**/*") if path.suffix.lower() in ENDINGS and path.is_file()]


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)


def name_in_voc(path: str) -> str:
    """The name of an example for an image's path in an annotation: relative, no `..`, no ending."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..")]
    if path.startswith(("/", "\\")) or ":" in path:  # absolute, a drive, or an address: its folders do not matter
        parts = parts[-1:]
    return str(PurePosixPath(*parts).with_suffix("")) if parts else ""


class ImageFinder:
    """Finds images by the paths in annotations."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._folders: dict[Path, Folder] = {}

    def find(self, folder: Path, path: str, named_by: str, needed: bool = True) -> Path | None:
        """The image at `path` in `folder`, else one with its file name, else one with another ending.

        Windows paths are allowed. Several images are a problem; no image is one too if the image is `needed`.
        """
        path = path.replace("\\", "/")
        names = [path, PurePosixPath(path).name]
        for name in names:
            if os.path.isfile(folder / name):  # noqa: PTH113  no error for a name that is too long
                return folder / name
        listed = self._folders.setdefault(folder, Folder(folder))
        for name in names:
            stem = str(PurePosixPath(name).with_suffix(""))
            if listed.has(stem):
                try:
                    return Path(listed.find(stem))
                except DataError as error:
                    self._findings.add(f"{named_by}: {error}")
                    return None
        if needed:
            self._findings.add_missing(folder / path, named_by)
        return None

    def find_in(self, folders: Sequence[Path], paths: Sequence[str], named_by: str) -> Path | None:
        """As `find`, of several paths in several folders the first that is there; no image is a problem."""
        if not all(map(name_in_voc, paths)):
            self._findings.add(f"{named_by}: {paths[0]!r} is not the name of an image")
            return None
        for folder in folders:
            for path in paths:
                if image := self.find(folder, path, named_by, needed=False):
                    return image
        return self.find(folders[0], paths[0], named_by)


def check_number(num_points: int) -> None:
    """Raises ValueError for an outline of too many points."""
    if num_points > _MAX_POINTS:
        raise ValueError(f"{num_points:,} points, more than {_MAX_POINTS:,}")


def check_near_image(points: Iterable[tuple[float, float]], height: int, width: int) -> None:
    """Raises ValueError for an outline whose drawing would take long or much memory, which grow with its length.

    A point is further outside the image than the image's longer side; there are more than `_MAX_POINTS`; or the outline
    is longer than `_MAX_TURNS` times around the image.
    """
    longest = max(height, width)
    outline = list(points)
    check_number(len(outline))
    for x, y in outline:
        if not (-longest <= x <= 2 * longest and -longest <= y <= 2 * longest):
            raise ValueError(f"the point ({x:g}, {y:g}) is far outside its {width}x{height} pixels")
    length = sum(map(math.dist, outline, outline[1:]))
    if length > _MAX_TURNS * 2 * (height + width):
        raise ValueError(
            f"an outline of {length:,.0f} pixels, more than {_MAX_TURNS} times around its {width}x{height}"
        )


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON file, with or without a byte-order mark.

    Raises:
        DataError: unreadable, or not JSON.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a JSON file{recognized(path)}")
    try:
        return json.loads(read_text(path, "JSON"))
    except DataError as error:
        raise DataError(f"{error}{recognized(path)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {shortened(error, 200)}{recognized(path)}") from error
