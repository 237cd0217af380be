"""Writes a data set in VOC's layout, completely or not at all."""

import logging
import random
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.formats.dataset import Dataset, Example
from deeplab.data.source.formats.findings import Findings, lines_of_left_out
from deeplab.data.source.images import ENDINGS, ImageFile, warn_of_other_bands
from deeplab.errors import DataError, UsageError
from deeplab.files import atomic_folder, is_relative_name, write_text
from deeplab.labels import VOID_LABEL, palette
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

_SPLITS = ("train", "val", "test")
_PNG_SIGNATURE = b"\x89PNG"


@dataclass(frozen=True)
class _Plan:
    """How to write an example: its name, its split, whether EXIF turns it, and how many bands are left out."""

    example: Example
    name: str
    split: str
    turned: bool
    other_bands: int


def write_voc(dataset: Dataset, voc_dir: Path, val_share: float, seed: int = 0) -> None:
    """Writes images, masks, split lists and class_names.txt to `voc_dir`, and logs their statistics.

    Existing splits are kept. Without a split val, a random `val_share` of train becomes val, at least one image and not
    all. Images keep their folders in their names. JPEGs and 8-bit RGB PNGs are copied unchanged; others, and images
    that EXIF turns, become lossless PNGs.

    Raises:
        UsageError: `voc_dir` exists.
        DataError: images are missing, unreadable, of 16 bits or differ from their stated size, or masks cannot be
            drawn; all problems are logged, and `voc_dir` does not exist.
    """
    if voc_dir.exists():
        raise UsageError(f"--voc_dir={voc_dir}: exists already; choose another folder, or delete it")
    plans = _plan(dataset, val_share, seed)
    findings = Findings()
    pixels = np.zeros(256, np.int64)
    with atomic_folder(voc_dir) as partial:
        progress = Progress("writing masks", len(plans), "masks")
        for number, plan in enumerate(plans, 1):
            try:
                pixels += _write_example(plan, partial)
            except DataError as error:
                findings.add(str(error))
            progress.update(number)
        progress.close()
        findings.raise_if_any()
        for split in _SPLITS:
            members = sorted(plan.name for plan in plans if plan.split == split)
            if members:
                path = partial / "ImageSets" / "Segmentation" / f"{split}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, "".join(f"{name}\n" for name in members))
        write_text(partial / "class_names.txt", "".join(f"{name}\n" for name in dataset.class_names))
    warn_of_other_bands({plan.example.image: plan.other_bands for plan in plans if plan.other_bands}, len(plans))
    _report(dataset, voc_dir, Counter(plan.split for plan in plans), pixels)


def _plan(dataset: Dataset, val_share: float, seed: int) -> list[_Plan]:
    """Plans all examples; raises DataError with all their findings."""
    splits = _splits(dataset.examples, val_share, seed)
    findings = Findings()
    names = _names(dataset.examples, splits, findings)
    plans = []
    for example, name, split in zip(dataset.examples, names, splits, strict=True):
        try:
            image = example.open_image()
            plans.append(_Plan(example, name, split, _is_turned(example, image), image.other_bands))
        except DataError as error:
            findings.add(str(error))
    findings.raise_if_any()
    return plans


def _splits(examples: list[Example], val_share: float, seed: int) -> list[str]:
    """The split of each example: the one it has, else train or val."""
    splits = [example.split or "train" for example in examples]
    if "val" in splits:
        return splits
    train = [number for number, split in enumerate(splits) if split == "train"]
    if len(train) < 2:
        raise DataError(f"{len(train)} images to train on: two are needed, one to train on and one to validate")
    random.Random(seed).shuffle(train)
    for number in train[: min(max(round(val_share * len(train)), 1), len(train) - 1)]:
        splits[number] = "val"
    return splits


def _names(examples: list[Example], splits: list[str], findings: Findings) -> list[str]:
    """A unique name for each example: its own, in a folder named after its split if other splits also have it."""
    names = [_safe_name(example.name) for example in examples]
    splits_of: dict[str, set[str]] = {}
    for name, example in zip(names, examples, strict=True):
        splits_of.setdefault(name, set()).add(example.split)
    names = [f"{split}/{name}" if len(splits_of[name]) > 1 else name for name, split in zip(names, splits, strict=True)]
    by_name: dict[str, Example] = {}
    by_image: dict[str, Example] = {}
    for name, example in zip(names, examples, strict=True):
        file = str(example.image.resolve())
        if not is_relative_name(name):
            findings.add(f"{example.image}: {name!r} cannot be the name of a file")
        if name in by_name:
            findings.add(f"{example.image}: would have the same name in JPEGImages as {by_name[name].image}: {name}")
        elif file in by_image:
            other = by_image[file]
            places = [f"{each.name}{f' of {each.split}' if each.split else ''}" for each in (other, example)]
            findings.add(f"{example.image}: annotated twice, as {' and '.join(places)}")
        by_name[name] = by_image[file] = example
    return names


def _safe_name(name: str) -> str:
    """A name for split lists: normalized Unicode, no control characters, and no ending of an image."""
    parts = unicodedata.normalize("NFC", name).split("/")
    name = "/".join("".join(each if each.isprintable() else "_" for each in part.strip()) for part in parts)
    stem, dot, ending = name.rpartition(".")
    return f"{stem}_{ending}" if dot + ending.lower() in ENDINGS else name


def _is_turned(example: Example, image: ImageFile) -> bool:
    """Whether the annotation fits the image as turned by EXIF. The stated size decides; by default tools turn images.

    Raises:
        DataError: the annotation is for another size, or is a mask whose size does not decide.
    """
    stated = example.stated_size
    shown_size = image.size[::-1] if image.orientation >= 5 else image.size
    fits = stated in (None, image.size)
    fits_turned = stated in (None, shown_size)
    if stated is not None and not fits and not fits_turned:
        raise DataError(
            f"{image.name}: {shown_size[0]}x{shown_size[1]} pixels, but its annotation is for {stated[0]}x{stated[1]}; "
            "was one of them resized?"
        )
    if example.mask and fits and fits_turned and image.orientation != 1:
        raise DataError(
            f"{image.name}: EXIF turns it (orientation {image.orientation}), and the size of its mask does not show "
            "whether the mask is also turned; save the image in the orientation of its mask, without EXIF"
        )
    return fits_turned


def _write_example(plan: _Plan, folder: Path) -> np.ndarray:
    """Writes image and mask; returns the number of pixels by index (int64 [256]). Raises DataError."""
    image_path = _prepared(folder / voc.IMAGE_FOLDER / plan.name)
    height, width = _write_image(plan, image_path)
    mask = plan.example.draw(height, width)
    picture = Image.fromarray(mask)
    picture.putpalette(palette().tobytes())
    path = _prepared(folder / voc.MASK_FOLDER / plan.name)
    picture.save(path.with_name(f"{path.name}.png"))
    return np.bincount(mask.ravel(), minlength=256)


def _prepared(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_image(plan: _Plan, path: Path) -> tuple[int, int]:
    """Writes the image in the form stored in shards, to `path` plus an ending; returns (height, width)."""
    image = plan.example.open_image()
    content, height, width = image.stored_form(plan.turned)
    ending = "png" if content.startswith(_PNG_SIGNATURE) else "jpg"
    if ending == "jpg":
        image.pixels(plan.turned)  # only decoding shows whether it is truncated
    path.with_name(f"{path.name}.{ending}").write_bytes(content)
    return height, width


def _report(dataset: Dataset, voc_dir: Path, num_images: Counter[str], pixels: np.ndarray) -> None:
    """Logs images per split, objects, omissions and their reasons, and each class's share of the pixels."""
    counts = ", ".join(
        f"{num_images[split]:,} {split}" for split in dict.fromkeys((*_SPLITS, *num_images)) if num_images[split]
    )
    num_objects = sum(example.num_objects for example in dataset.examples)
    objects = f", {num_objects:,} objects" if num_objects else ""
    logger.info("%s: %s images (%s)%s", voc_dir, f"{len(dataset.examples):,}", counts, objects)
    for line in lines_of_left_out(dataset.left_out):
        logger.warning("left out: %s", line)
    for line in dataset.renamed:
        logger.warning("%s: names of classes cannot have : , # { or }", line)
    total = max(int(pixels.sum()), 1)
    shares = [(name, int(pixels[index])) for index, name in enumerate(dataset.class_names)]
    shares.append(("void", int(pixels[VOID_LABEL])))
    logger.info("pixels: %s", ", ".join(f"{name} {100 * number / total:.2f} %" for name, number in shares if number))
    absent = [name for name, number in shares[:-1] if not number]
    if absent:
        logger.warning("no pixel of %s", ", ".join(absent))
    logger.info("to look at it: python -m deeplab.look --voc_dir=%s", voc_dir)
