"""The PASCAL VOC layout: classes, palette, void label, splits, image and mask files, and VOC 2012's download."""

import http.client
import logging
import random
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.errors import DataError, UsageError
from deeplab.files import digest, is_plain_name
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

IGNORE_LABEL = 255
"""VOC's void: object borders and what nobody labelled. Excluded from losses, metrics and class weights."""

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

ARCHIVE_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
ARCHIVE_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"

_SPLIT_HALVES = {"val_half": 0, "test_half": 1}
_DOWNLOAD_TRIES = 5


@dataclass(frozen=True)
class Pair:
    """One example on disk: a JPEG image and its index mask."""

    name: str
    image: Path
    mask: Path


def palette() -> np.ndarray:
    """VOC's colour map: uint8 [256, 3] RGB; entry 255 (void) is VOC's cream.

    Bits of the index are spread over the channels from the most significant down (VOC devkit, VOClabelcolormap.m).
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


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


def download(voc_dir: Path, url: str = ARCHIVE_URL, md5: str = ARCHIVE_MD5) -> None:
    """Fetches the VOC archive and unpacks it as `voc_dir`; does nothing if `voc_dir` exists.

    The archive is streamed to `voc_dir`'s parent, continued where an earlier try broke off, checked against `md5`
    and kept. It is unpacked (tarfile's `data` filter) into a temporary folder, and its VOCdevkit/VOC2012 is
    renamed to `voc_dir`, which therefore is whole or absent.

    Raises:
        UsageError: `url` is none.
        DataError: the server refuses or keeps breaking off, the checksum or the archive's layout is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--voc_url={url}: not the address of an archive; it begins with http:// or https://")
    if voc_dir.exists():
        return
    if not hasattr(tarfile, "data_filter"):
        raise DataError("--download: this Python's tarfile cannot unpack safely; take 3.10.12, 3.11.4 or a later one")
    voc_dir.parent.mkdir(parents=True, exist_ok=True)
    archive = voc_dir.parent / Path(url).name
    if not archive.exists():
        part = archive.with_name(archive.name + ".part")
        _fetch(url, part)
        part_md5 = digest(part, "md5")
        if part_md5 != md5:
            part.unlink()
            raise DataError(f"{url}: MD5 is {part_md5}, not {md5}; the download was thrown away, start again")
        part.rename(archive)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=voc_dir.parent) as folder:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{archive}: cannot be unpacked: {error}; delete it and start again") from error
        unpacked = Path(folder) / "VOCdevkit" / "VOC2012"
        if not unpacked.is_dir():
            raise DataError(f"{archive}: holds no VOCdevkit/VOC2012")
        unpacked.rename(voc_dir)


def _fetch(url: str, part: Path) -> None:
    """Streams `url` to `part`, going on from what `part` holds; a broken connection is taken up again."""
    for attempt in range(1, _DOWNLOAD_TRIES + 1):
        try:
            if _fetch_rest(url, part):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            raise DataError(f"{url}: {error}; name a mirror with --voc_url") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        if attempt == _DOWNLOAD_TRIES:
            raise DataError(
                f"{url}: {reason} ({attempt} tries); what came is kept in {part}, the same command goes on from there"
            )


def _fetch_rest(url: str, part: Path) -> bool:
    """One request for what is missing in `part`; True when the file is complete by the server's length."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # `part` holds everything already; the checksum decides
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server knows no ranges: from the start
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        progress = Progress(f"downloading {part.stem}", total >> 20, "MiB", initial=have >> 20)
        with part.open("ab" if have else "wb") as file:
            while piece := response.read(1 << 20):
                file.write(piece)
                have += len(piece)
                progress.update(have >> 20)
        progress.close()
    return not total or have == total


def _read_lines(path: Path, what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({what})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({what}): {error}") from error
