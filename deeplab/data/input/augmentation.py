"""Augmentation of training images: geometry on the host, colors on the device that trains."""

from dataclasses import dataclass

import tensorflow as tf

from deeplab.data.input import transforms
from deeplab.errors import UsageError
from deeplab.settings import setting


@dataclass(frozen=True)
class Augmentation:
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

    def __call__(self, image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Image and label of any size -> the crop, and in `shifts` (float32 [3]) the color shifts for `finish`.

        seed: int [2]; the same seed gives the same result.
        """
        draws = tf.random.stateless_uniform([7], seed)
        if self.augmentation == "scale_crop":
            image, label = transforms.random_scale_crop(
                image, label, self.crop_size, self.min_scale, self.max_scale, draws[3:]
            )
        else:
            image, label = transforms.random_resize_or_crop(image, label, self.crop_size, self.resize_size, draws[3:])
        image = tf.ensure_shape(image, [self.crop_size, self.crop_size, 3])
        label = tf.ensure_shape(label, [self.crop_size, self.crop_size, 1])
        shifts = (2.0 * draws[:3] - 1.0) * (self.hue, self.brightness, self.contrast)
        return {"image": image, "label": label[..., 0], "shifts": shifts}

    def finish(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Shifts the colors of a batch of crops; the images are float32 afterwards.

        Runs in the compiled step: on an accelerator it costs next to nothing, on the host more than making the crop.
        """
        if not (self.hue or self.brightness or self.contrast):
            return batch
        on_gpus = tf.config.list_logical_devices("GPU")
        return {**batch, "image": (_shift_together if on_gpus else _shift_one_by_one)(batch["image"], batch["shifts"])}


def _shift_together(images: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Colors of a batch by a few kernels; on GPUs, a loop over images would run on the host."""
    return transforms.shift_colors(images, *tf.unstack(shifts[:, tf.newaxis, tf.newaxis, tf.newaxis], axis=-1))


def _shift_one_by_one(images: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """The same in the form that is faster on CPUs, where one kernel turns the hue of an image."""
    return tf.map_fn(
        lambda example: transforms.shift_colors(example[0], *tf.unstack(example[1])),
        (images, shifts),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
    )
