"""The flags that belong to one program: eval.py, predict, export, app, look or import_weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.source.images import MAX_PIXELS, MOST_PIXELS
from deeplab.errors import UsageError
from deeplab.settings import setting


@dataclass(frozen=True)
class ScoreSettings:
    """What to score, and what to write."""

    split: str = setting("val", "Split to score; its shards must exist in --tfrecord_dir.")
    checkpoint: str | None = setting(None, "Checkpoint to score. Default: the best of --model_dir.")
    output_dir: Path | None = setting(None, "Folder for metrics.json, coloured masks and side-by-side pictures.")
    report: Path | None = setting(
        None, "Folder for report.html, and for the photos it shows: scores, confusion matrix, every image, curves."
    )
    compare: Path | None = setting(
        None,
        "metrics.json of another evaluation of the same images: prints differences by class and image; in --report.",
    )
    boundaries: bool = setting(
        False, "Also score trimaps of 1 to 40 pixels around true boundaries: boundary_mean_iou and its curve."
    )


@dataclass(frozen=True)
class PredictSettings:
    """What to segment, and where the pictures go."""

    model_dir: Path | None = setting(None, "Folder of the run whose model predicts, or of an export.")
    checkpoint: str | None = setting(None, "Checkpoint to use. Default: the best of --model_dir.")
    output_dir: Path | None = setting(None, "Folder for the pictures.")
    max_pixels: int = setting(
        MAX_PIXELS,
        "Refuse larger images. --window_size bounds what the network needs for them.",
        lower=1,
        upper=MOST_PIXELS,
    )
    truth_dir: Path | None = setting(None, "Folder of true masks, NAME.png, to show next to the predictions.")
    voc_dir: Path | None = setting(
        None, "Folder in VOC layout: segment the images of its --split, for VOC's evaluation server."
    )
    split: str = setting("test", "Split of --voc_dir.")
    masks_only: bool = setting(False, "Write only masks/, which takes a small part of the time of all pictures.")
    skip_existing: bool = setting(
        False, "Leave out images whose pictures are all there and not older than they, as after an interruption."
    )
    num_shards: int = setting(1, "Number of processes that share these images, each with its --shard_index.", lower=1)
    shard_index: int | None = setting(
        None, "Which of them this is, from 0 on. Default: by its number in Slurm's job array (sbatch --array).", lower=0
    )

    def __post_init__(self) -> None:
        if self.masks_only and self.truth_dir:
            raise UsageError("--masks_only writes no side_by_side/, which --truth_dir is for: give one of them")


CALIBRATION_IMAGES = 64
KERAS_MODEL = "model.keras"


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and in which formats."""

    model_dir: Path | None = setting(None, "Folder of the run whose model is exported.")
    checkpoint: str | None = setting(None, "Checkpoint to use. Default: the best of --model_dir.")
    export_dir: Path | None = setting(None, "Folder to write; it must not exist.")
    onnx: bool = setting(False, "Also write model.onnx.")
    tflite: bool = setting(False, "Also write model.tflite and model_dynamic_range.tflite.")
    tflite_int8: bool = setting(
        False, "Also write model_int8.tflite, whose network computes in 8-bit integers; needs --tfrecord_dir."
    )
    keras: bool = setting(
        False, f"Also write {KERAS_MODEL}, which Keras loads where deeplab is imported, to be trained on."
    )
    split: str = setting(
        "train", f"Split of --tfrecord_dir; {CALIBRATION_IMAGES} of its images give the ranges of --tflite_int8."
    )


CLASSES_AND_PROBABILITIES = "classes,probabilities"


@dataclass(frozen=True)
class Interface:
    """What the files take and return.

    Attributes:
        size: height and width of all images; None for any.
    """

    input_size: tuple[int, ...] | None = setting(
        None,
        "HEIGHT,WIDTH of all images: for phones, accelerators and compilers, which want sizes that are known in "
        "advance. Without: any size.",
        lower=1,
        upper=16384,
    )
    outputs: str = setting(
        CLASSES_AND_PROBABILITIES,
        "What ONNX and TensorFlow Lite return for each pixel.",
        choices=(CLASSES_AND_PROBABILITIES, "classes", "probabilities", "logits"),
    )
    input_type: str = setting(
        "uint8", "Type of the pixels that ONNX and TensorFlow Lite take; in [0, 255].", choices=("uint8", "float32")
    )
    channels_first: bool = setting(False, "ONNX: images and scores are [batch, channels, height, width].")
    onnx_opset: int = setting(17, "ONNX: version of the operators.", lower=13, upper=18)

    def __post_init__(self) -> None:
        """Raises UsageError for an input size other than two numbers."""
        if self.input_size and len(self.input_size) != 2:
            raise UsageError(f"--input_size={','.join(map(str, self.input_size))}: give HEIGHT,WIDTH")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images; None for any."""
        return (self.input_size[0], self.input_size[1]) if self.input_size else None

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [height, width, 3] -> the same at the fixed size, if there is one."""
        if not self.size:
            return image
        height, width = self.size
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


ANY_SIZE = Interface()
NUM_EXAMPLES = 8


@dataclass(frozen=True)
class AppSettings:
    """The page."""

    model_dir: Path | None = setting(None, "Folder of the run or export whose model is tried.")
    checkpoint: str | None = setting(None, "Checkpoint of a run to use. Default: the best of --model_dir.")
    host: str = setting(
        "127.0.0.1", "Address to serve on. 0.0.0.0: also for other machines, without a password or encryption."
    )
    port: int = setting(7860, "Port to serve on.", lower=1, upper=65535)
    host_name: str | None = setting(
        None, "With --host=0.0.0.0: name of this machine in the address that others open. Default: its host name."
    )
    split: str = setting("val", f"Split of --tfrecord_dir; {NUM_EXAMPLES} of its images are examples on the page.")
    max_pixels: int = setting(
        16_000_000,
        "Refuse larger pictures, and files of more than 4 bytes per pixel and 1 MiB.",
        lower=1,
        upper=MOST_PIXELS,
    )

    @property
    def max_upload(self) -> int:
        """Bytes of the largest file: that of the largest picture with alpha, uncompressed, and its metadata."""
        return 4 * self.max_pixels + 2**20


@dataclass(frozen=True)
class LookSettings:
    """The page."""

    page: Path | None = setting(
        None, "HTML file to write. Default: look.html in --tfrecord_dir if given, else in --voc_dir."
    )
    crops: int = setting(8, "Training crops to show.", lower=1, upper=1000)
    num_examples: int = setting(4, "Random images to show, beside those shown for a reason.", lower=0, upper=1000)
    seed: int = setting(
        1, "Seed of the crops: the first crops of a train.py run with the same seed.", lower=1, upper=2**31 - 1
    )


@dataclass(frozen=True)
class ImportSettings:
    """What to import, and where it goes."""

    model_dir: Path | None = setting(None, "Folder of the run to write; it must not exist.")
    class_names: Path | None = setting(
        None,
        "File with the names of its classes, in its order. Default: VOC's for 21 classes of torchvision or "
        "research/deeplab, else numbers.",
    )
