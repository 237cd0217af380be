"""The PASCAL VOC layout: class names, split lists, image and mask files."""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

from deeplab.data.palette import IGNORE_LABEL
from deeplab.errors import DataError
from deeplab.files import is_plain_name

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

_SPLIT_HALVES = {"val_half": 0, "test_half": 1}


@dataclass(frozen=True)
class Pair:
    """One example on disk: a JPEG image and its index mask."""

    name: str
    image: Path
    mask: Path


def read_class_names(path: Path | None) -> tuple[str, ...]:
    """Class names from a text file, one a line, index 0 first; VOC's 21 without a file.

    Raises:
        DataError: no such file, no name in it, an empty line between names, a name twice, or more than 255 names.
    """
    if path is None:
        return CLASS_NAMES
    names = tuple(line.strip() for line in "\n".join(_read_lines(path, "class names")).rstrip().splitlines())
    if not names:
        raise DataError(f"{path}: no class names; write one a line, class 0 first")
    if "" in names:
        raise DataError(f"{path}: line {names.index('') + 1} is empty; it would shift the classes below it")
    if len(names) > IGNORE_LABEL:
        raise DataError(f"{path}: {len(names)} class names; at most {IGNORE_LABEL}, since {IGNORE_LABEL} is void")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the class name {name!r} stands twice")
    return names


def read_split(voc_dir: Path, split: str, mask_dir: Path | None = None) -> list[str]:
    """Names of a split's examples, in the order of its list file.

    `split` names a file in ImageSets/Segmentation without `.txt`. Where there is no such file: `trainval` is
    `train` followed by `val`; `val_half` and `test_half` are the two halves of `val` after
    `random.seed(42); random.shuffle(names)` (TensorFlow in Action, chapter 8); `trainaug` is all that has a mask in
    `mask_dir`. What is in `val` is left out of `trainaug` in any case.

    Raises:
        DataError: no such split, an empty one, an unsafe or repeated name.
    """
    folder = voc_dir / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if path.exists():
        names = [line.strip() for line in _read_lines(path, "split") if line.strip()]
    elif split == "trainval":
        names = read_split(voc_dir, "train") + read_split(voc_dir, "val")
    elif split in _SPLIT_HALVES:
        names = read_split(voc_dir, "val")
        random.Random(42).shuffle(names)
        half = len(names) // 2
        names = (names[:half], names[half:])[_SPLIT_HALVES[split]]
    elif split == "trainaug" and mask_dir is not None:
        names = sorted(file.stem for file in mask_dir.glob("*.png"))
    else:
        found = sorted(file.stem for file in folder.glob("*.txt"))
        hint = f"found: {', '.join(found)}" if found else f"no list files in {folder}; is --voc_dir right?"
        raise DataError(f"{path}: no such split; {hint}")
    if split == "trainaug":
        in_val = set(read_split(voc_dir, "val"))
        with_val, names = names, [name for name in names if name not in in_val]
        logger.info("trainaug: %d images; %d left out, since val has them", len(names), len(with_val) - len(names))
    if not names:
        raise DataError(f"{path}: the split is empty")
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path}: the name {name!r} stands twice")
        if not is_plain_name(name):
            raise DataError(f"{path}: {name!r} is not a plain file name")
        seen.add(name)
    return names


def pairs(voc_dir: Path, split: str, mask_dir: Path | None = None) -> list[Pair]:
    """Where image and mask of every example of a split are; masks in `voc_dir`/SegmentationClass or in `mask_dir`.

    Raises:
        DataError: as `read_split`.
    """
    masks = mask_dir or voc_dir / "SegmentationClass"
    return [
        Pair(name, voc_dir / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png")
        for name in read_split(voc_dir, split, mask_dir)
    ]


def _read_lines(path: Path, what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({what})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({what}): {error}") from error
