"""Augmentation of training images: geometry on the host, colors on the device that trains."""

import tensorflow as tf

from deeplab.data.input import transforms
from deeplab.data.input.settings import AugmentationSettings


class Augmentation:
    """Makes training crops from images and labels, by its settings."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self.settings = settings

    def __call__(self, image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Image and label of any size -> the crop, and in `shifts` (float32 [3]) the color shifts for `finish`.

        seed: int [2]; the same seed gives the same result.
        """
        settings = self.settings
        size = settings.crop_size
        draws = tf.random.stateless_uniform([7], seed)
        if settings.augmentation == "scale_crop":
            image, label = transforms.random_scale_crop(
                image, label, size, settings.min_scale, settings.max_scale, draws[3:]
            )
        else:
            image, label = transforms.random_resize_or_crop(image, label, size, settings.resize_size, draws[3:])
        image = tf.ensure_shape(image, [size, size, 3])
        label = tf.ensure_shape(label, [size, size, 1])
        shifts = (2.0 * draws[:3] - 1.0) * (settings.hue, settings.brightness, settings.contrast)
        return {"image": image, "label": label[..., 0], "shifts": shifts}

    def finish(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Shifts the colors of a batch of crops; the images are float32 afterwards.

        Runs in the compiled step: on an accelerator it costs next to nothing, on the host more than making the crop.
        """
        if not (self.settings.hue or self.settings.brightness or self.settings.contrast):
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
