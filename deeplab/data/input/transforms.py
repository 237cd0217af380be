"""Augmentation: pure functions built from TensorFlow's C++ ops; of ops with equal results, the cheaper one.

image: uint8 [height, width, 3], RGB. label: uint8 [height, width, 1], class indices and `VOID_LABEL`.
draws: float32, uniform in [0, 1); the same draws give the same result in any thread.

`shift_colors` takes the shifts themselves instead of draws, since it runs on the device that trains.
"""

import numpy as np
import tensorflow as tf

from deeplab.labels import VOID_LABEL

MEAN_COLOR = (124, 117, 104)
"""ImageNet's mean RGB, rounded; padding with it is close to 0 after the backbone has subtracted the mean."""


def pad(image: tf.Tensor, label: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Extends both at bottom and right to `height` x `width`: mean color in the image, void in the label."""
    # tf.concat copies rows; tf.pad computes each value's place, which takes several times as long.
    rows, columns = tf.unstack(tf.shape(image)[:2])

    def extend(pixels: tf.Tensor, value: tuple[int, ...]) -> tf.Tensor:
        canvas = tf.constant(np.full((height, width, len(value)), value, np.uint8))
        return tf.concat([tf.concat([pixels, canvas[:rows, columns:]], 1), canvas[rows:]], 0)

    return extend(image, MEAN_COLOR), extend(label, (VOID_LABEL,))


def resize(
    image: tf.Tensor,
    label: tf.Tensor,
    height: tf.Tensor | int,
    width: tf.Tensor | int,
    mirrored: tf.Tensor | bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes the image bilinearly (half-pixel centers, rounded), the label by nearest neighbor (no new indices).

    Both are mirrored from left to right if `mirrored`.
    """
    # The kernel is twice as fast on floats. Its weights add up to 1, so adding 0.5 first makes the cast round.
    values = tf.cast(tf.reverse(image, [1]) if mirrored else image, tf.float32) + 0.5
    values = tf.raw_ops.ResizeBilinear(images=values[tf.newaxis], size=[height, width], half_pixel_centers=True)
    image = tf.cast(values[0], tf.uint8)
    # Copies whole rows, in a sixth of the time of TensorFlow's nearest-neighbor resize.
    columns = _nearest_rows(tf.transpose(label[..., 0]), width)
    columns = tf.reverse(columns, [0]) if mirrored else columns
    label = _nearest_rows(tf.transpose(columns), height)[..., tf.newaxis]
    return image, label


def _nearest_rows(pixels: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """[rows, columns] -> [number, columns]; row i is the one that (i + 1/2) * rows / number falls into."""
    centers = (2 * tf.range(number) + 1) * tf.shape(pixels)[0] // (2 * number)
    return tf.gather(pixels, centers)


def random_window(
    image: tf.Tensor, label: tf.Tensor, size: tf.Tensor | int, draws: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A `size` x `size` window placed uniformly by two draws; a shorter side is kept whole."""
    room = tf.maximum(tf.shape(image)[:2] - size, 0)
    offset = tf.cast(draws * (tf.cast(room, tf.float32) + 1), tf.int32)
    top, left = tf.unstack(tf.minimum(offset, room))
    image = image[top : top + size, left : left + size]
    label = label[top : top + size, left : left + size]
    return image, label


def random_scale_crop(
    image: tf.Tensor, label: tf.Tensor, crop_size: int, min_scale: float, max_scale: float, draws: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales by a uniform factor, crops at random, mirrors half of the images, pads to `crop_size`; four draws.

    Source: arXiv 1706.05587, section 4.1. A window of `crop_size / scale` source pixels is cropped first, and only the
    window is resized; up to its rounding to whole pixels, this equals resizing the whole image.
    """
    scale = min_scale + draws[0] * (max_scale - min_scale)
    window = tf.cast(tf.round(crop_size / scale), tf.int32)
    image, label = random_window(image, label, window, draws[1:3])
    height, width = tf.unstack((2 * tf.shape(image)[:2] * crop_size + window) // (2 * window))  # rounded
    image, label = resize(image, label, tf.maximum(height, 1), tf.maximum(width, 1), draws[3] < 0.5)
    return pad(image, label, crop_size, crop_size)


def random_resize_or_crop(
    image: tf.Tensor, label: tf.Tensor, crop_size: int, resize_size: int, draws: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The textbook's: squashes half of the images to the crop size, the others to `resize_size`, and crops those.

    Also mirrors half of the images; four draws. Source: TensorFlow in Action (T. Ganegedara), chapter 8: 444 and 384.
    """
    size = crop_size if draws[0] < 0.5 else resize_size
    image, label = resize(image, label, size, size, draws[3] < 0.5)
    image, label = random_window(image, label, crop_size, draws[1:3])
    return image, label


def shift_colors(images: tf.Tensor, hue: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Turns the hue, then adds brightness, then scales each channel's distance from its mean by 1 + `contrast`.

    uint8 [..., height, width, 3] -> float32 in [0, 255]. The shifts are float32: scalars for all images alike, or
    [batch, 1, 1, 1]; 0 changes nothing. Hue is a fraction of the full circle, brightness a fraction of the range of
    values. Values are clipped to their range after each operation.
    """
    values = tf.cast(images, tf.float32)
    # Both work for values of any scale.
    values = tf.image.adjust_hue(values, hue) if hue.shape.rank == 0 else _turn_hues(values, hue)
    values = tf.clip_by_value(values + 255.0 * brightness, 0.0, 255.0)
    # tf.image.adjust_contrast fails on GPUs with deterministic kernels. Mean by rows, then columns: vectorized.
    means = tf.reduce_mean(tf.reduce_mean(values, -3, keepdims=True), -2, keepdims=True)
    return tf.clip_by_value(values + contrast * (values - means), 0.0, 255.0)


def _turn_hues(images: tf.Tensor, hues: tf.Tensor) -> tf.Tensor:
    """`tf.image.adjust_hue`, whose kernel has one hue for all images, with one of its own for each."""
    hue, saturation, value = tf.split(tf.image.rgb_to_hsv(images), 3, -1)
    return tf.image.hsv_to_rgb(tf.concat([tf.math.floormod(hue + hues, 1.0), saturation, value], -1))
