"""SBD's annotations (Hariharan et al., ICCV 2011) as index masks, together with VOC's own: the masks of trainaug.

python -m deeplab.data.sbd --sbd_dir=benchmark_RELEASE/dataset --voc_dir=VOC2012 --mask_dir=SegmentationClassAug

Needs scipy (the extra `sbd`).
"""

from deeplab.program.start import Program

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.source import voc
from deeplab.errors import DataError, UsageError
from deeplab.files import atomic_folder
from deeplab.labels import palette
from deeplab.progress import Progress
from deeplab.settings import Classes, Options, refuse_arguments, require, setting

logger = logging.getLogger("deeplab")


@dataclass(frozen=True)
class SBDSettings:
    """SBD's masks."""

    sbd_dir: Path | None = setting(None, "Folder `dataset` of SBD's benchmark_RELEASE; it holds cls/*.mat.")
    voc_dir: Path | None = setting(None, "Folder of VOC 2012, for its masks of train and its list of val.")
    mask_dir: Path | None = setting(None, "Folder to write; it must not exist.")


SETTINGS: Classes = (SBDSettings,)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and for arguments."""
    refuse_arguments(arguments)
    for name in ("sbd_dir", "voc_dir", "mask_dir"):
        require(name, getattr(options[SBDSettings], name))


def main(options: Options, arguments: list[str]) -> None:
    """SBD's cls/*.mat and VOC's masks of train -> --mask_dir/NAME.png."""
    folders = options[SBDSettings]
    write_masks(
        require("sbd_dir", folders.sbd_dir),
        require("voc_dir", folders.voc_dir),
        require("mask_dir", folders.mask_dir),
    )


def write_masks(sbd_dir: Path, voc_dir: Path, mask_dir: Path) -> None:
    """Writes a mask for each image of VOC's train or SBD that is not in VOC's val. `mask_dir` is complete or absent.

    Prefers VOC's own masks: they have void at the borders, which SBD's lack.

    Raises:
        UsageError: `mask_dir` exists.
        DataError: a file is missing or invalid.
    """
    if mask_dir.exists():
        raise UsageError(f"--mask_dir={mask_dir}: exists already; choose another folder, or delete it")
    annotations = sorted((sbd_dir / "cls").glob("*.mat"))
    if not annotations:
        raise DataError(f"{sbd_dir}: contains no cls/*.mat; give the folder `dataset` of SBD's benchmark_RELEASE")
    train = voc.pairs(voc_dir, "train")
    in_train = {pair.name for pair in train}
    in_val = set(voc.read_split(voc_dir, "val"))
    only_in_sbd = [path for path in annotations if path.stem not in in_train | in_val]
    with atomic_folder(mask_dir) as partial:
        progress = Progress("writing masks", len(train) + len(only_in_sbd), "masks")
        for number, pair in enumerate(train, 1):
            shutil.copyfile(pair.mask, partial / pair.mask.name)
            progress.update(number)
        for number, path in enumerate(only_in_sbd, len(train) + 1):
            mask = Image.fromarray(read_annotation(path))
            mask.putpalette(palette().tobytes())
            mask.save(partial / f"{path.stem}.png")
            progress.update(number)
        progress.close()
    logger.info(
        "%d masks of VOC's train and %d of SBD; of SBD's %d, %d in VOC's val are left out, %d are replaced by VOC's",
        len(train),
        len(only_in_sbd),
        len(annotations),
        sum(path.stem in in_val for path in annotations),
        sum(path.stem in in_train for path in annotations),
    )


def read_annotation(path: Path) -> np.ndarray:
    """Class indices of one of SBD's cls/*.mat: uint8 [height, width], 0..20.

    Raises:
        DataError: unreadable, not an annotation of SBD, or an index without a class.
        UsageError: scipy is not installed.
    """
    try:
        import scipy.io  # noqa: PLC0415  an extra, which only this needs
    except ImportError as error:
        raise UsageError("scipy is needed to read SBD's .mat files: pip install '.[sbd]'") from error
    try:
        mask = scipy.io.loadmat(str(path), squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
    except Exception as error:  # scipy raises many kinds for other files
        raise DataError(f"{path}: not an annotation of SBD ({type(error).__name__}: {error})") from error
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path}: GTcls.Segmentation is not an 8-bit image")
    if mask.max() >= len(voc.CLASS_NAMES):
        raise DataError(f"{path}: label {mask.max()}, but VOC has {len(voc.CLASS_NAMES)} classes")
    return mask


def command() -> None:
    """The program as `deeplab-sbd` starts it."""
    Program(SETTINGS, __doc__, check_flags).run(main)
