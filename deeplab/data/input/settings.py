"""The flags of batches: augmentation, sampling, evaluation."""

from dataclasses import dataclass

from deeplab.errors import UsageError
from deeplab.settings import setting


@dataclass(frozen=True)
class AugmentationSettings:
    """Augmentation.

    How a training crop is made from an image; `transforms` describes each step.
    """

    crop_size: int = setting(513, "Height and width of training crops, in pixels.", lower=17, upper=2**14)
    augmentation: str = setting(
        "scale_crop",
        "scale_crop: random scale, crop, pad (the paper's). resize_or_crop: squash half of the images to the crop "
        "size; squash the others to --resize_size and crop them (the textbook's).",
        choices=("scale_crop", "resize_or_crop"),
    )
    min_scale: float = setting(0.5, "Smallest random scale of scale_crop.", lower=0.05)
    max_scale: float = setting(2.0, "Largest random scale of scale_crop.", lower=0.05)
    resize_size: int = setting(444, "Size before cropping in resize_or_crop, in pixels.", lower=17, upper=2**14)
    hue: float = setting(0.1, "Largest hue shift; 1 is the full circle, 0 is off.", lower=0.0, upper=0.5)
    brightness: float = setting(0.1, "Largest brightness shift; 1 is the full range, 0 is off.", lower=0.0, upper=1.0)
    contrast: float = setting(0.2, "The contrast factor is drawn from 1 +- this; 0 is off.", lower=0.0, upper=0.99)

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise UsageError(f"--min_scale={self.min_scale}: larger than --max_scale={self.max_scale}")
        if self.augmentation == "resize_or_crop" and self.resize_size < self.crop_size:
            raise UsageError(f"--resize_size={self.resize_size}: smaller than --crop_size={self.crop_size}")


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling.

    arXiv 1706.05587, section 4.3, repeats the images of bicycle, chair, dining table, potted plant and sofa.
    """

    repeat_classes: str = setting(
        "", "Classes, as in a,b, whose images appear --repeat_times times in each epoch.", fixed=True
    )
    repeat_times: int = setting(
        2, "Appearances of the images of --repeat_classes in each epoch.", lower=2, upper=1000, fixed=True
    )


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation."""

    eval_batch_size: int | None = setting(
        None,
        "Images per evaluation batch, over all replicas. Default: one per replica, which gives exactly the same masks "
        "as deeplab.predict. Larger batches hold images of equal size: faster on GPUs, equal up to rounding.",
        lower=1,
        hyperparameter=False,
    )
    eval_batch_pixels: int = setting(
        2**20, "Most pixels in a replica's evaluation batch of more than one image.", lower=1, hyperparameter=False
    )
