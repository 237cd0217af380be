"""The flags of shards: what is written, and what is read."""

from dataclasses import dataclass
from pathlib import Path

from deeplab.data.source.images import MAX_PIXELS, MOST_PIXELS
from deeplab.errors import UsageError
from deeplab.settings import setting

REFUSE = "refuse"
TURN = "turn"
IGNORE = "ignore"
EXIF_CHOICES = (REFUSE, TURN, IGNORE)
"""For an image that EXIF turns and whose mask fits it either way: refuse it, or say which view the mask belongs to."""


@dataclass(frozen=True)
class ShardSettings:
    """Data set and shards to write."""

    voc_dir: Path | None = setting(
        None, "Folder in VOC layout (VOCdevkit/VOC2012) to write shards from.", hyperparameter=False
    )
    class_names: Path | None = setting(
        None,
        "Text file of class names, one per line, class 0 first; or a table of names and mask values or colours "
        "(`cat: 1, 2`, with a colour for pictures `cat: 1 #ff0000`, or `cat: #ff0000`); or CVAT's labelmap.txt or "
        "Roboflow's _classes.csv. Default: VOC_DIR/class_names.txt or VOC_DIR/labelmap.txt, else VOC's 21 classes.",
        hyperparameter=False,
    )
    mask_dir: Path | None = setting(
        None,
        "Folder of the masks of --train_split, if not VOC_DIR/SegmentationClass; for trainaug.",
        hyperparameter=False,
    )
    train_split: str = setting("train", "Split to train on: a list in ImageSets/Segmentation.")
    val_split: str = setting("val", "Split to evaluate on during training; empty: none.")
    exif: str = setting(
        REFUSE,
        "If EXIF turns an image and the size of its mask does not show whether the mask was drawn on the turned image: "
        "refuse the image; turn it, as most tools show it; or ignore EXIF.",
        choices=EXIF_CHOICES,
        hyperparameter=False,
    )
    tile_size: int = setting(
        0,
        "Cut larger images into tiles of at most this many pixels a side, each an example of its own, called "
        "NAME_yTOP_xLEFT; tiles that are all void are left out. 0: whole images.",
        lower=0,
        hyperparameter=False,
    )
    tile_overlap: float = setting(
        0.0,
        "Share of a tile that the next one also covers, in --train_split only: elsewhere each pixel counts once.",
        lower=0.0,
        upper=0.9,
        hyperparameter=False,
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "Refuse larger images and masks when shards are written; with --tile_size they need not be small.",
        lower=1,
        upper=MOST_PIXELS,
        hyperparameter=False,
    )
    num_shards: int = setting(
        16, "Number of shard files to write per split.", lower=1, upper=2**16, hyperparameter=False
    )
    max_bad_examples: int = setting(
        0,
        "Number of bad images or masks per split to leave out of its shards and list in SPLIT.bad_examples.txt; more "
        "are an error.",
        lower=0,
        hyperparameter=False,
    )
    prepare_only: bool = setting(
        False, "Write the shards (after any download) and stop; --model_dir is not needed.", hyperparameter=False
    )

    def __post_init__(self) -> None:
        if self.prepare_only and not self.voc_dir:
            raise UsageError("--prepare_only needs --voc_dir")
        if self.tile_overlap and not self.tile_size:
            raise UsageError(f"--tile_overlap={self.tile_overlap:g} needs --tile_size")


@dataclass(frozen=True)
class SplitSettings:
    """Shards to read."""

    tfrecord_dir: Path | None = setting(
        None, "Folder of the TFRecord shards and their manifests.", hyperparameter=False
    )
    verify: bool = setting(
        False, "Check the shards' SHA-256 before using them; sizes are always checked.", hyperparameter=False
    )
