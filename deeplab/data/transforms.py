"""Augmentation: pure functions (image, label, seed) -> (image, label), all of them C++ ops of TensorFlow.

image: uint8 [height, width, 3], RGB. label: uint8 [height, width, 1], class indices and `ignore_label`.
seed: int [2]; the same seed gives the same result, whatever thread runs it.
"""

import tensorflow as tf

from deeplab.data.voc import IGNORE_LABEL

MEAN_COLOUR = (124, 117, 104)
"""ImageNet's mean RGB, rounded; what is padded with it is close to 0 once the backbone has subtracted the mean."""


def pad(
    image: tf.Tensor, label: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Extends bottom and right to at least `height` x `width`: mean colour in the image, void in the label."""
    shape = tf.shape(image)
    paddings = [[0, tf.maximum(height - shape[0], 0)], [0, tf.maximum(width - shape[1], 0)], [0, 0]]
    mean = tf.constant(MEAN_COLOUR, tf.uint8)
    image = tf.pad(image - mean, paddings) + mean  # uint8 wraps around, so subtracting and adding is exact
    label = tf.pad(label, paddings, constant_values=IGNORE_LABEL)
    return image, label


def resize(image: tf.Tensor, label: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Image bilinear (half-pixel centres, rounded), label by nearest neighbour, so that no index is invented."""
    image = tf.cast(tf.round(tf.image.resize(image, (height, width), "bilinear")), tf.uint8)
    label = tf.image.resize(label, (height, width), "nearest")
    return image, label


def random_crop(
    image: tf.Tensor, label: tf.Tensor, size: tf.Tensor | int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A uniformly placed `size` x `size` window; image and label must be at least that large."""
    room = tf.shape(image)[:2] - size
    offset = tf.random.stateless_uniform([2], seed, maxval=tf.cast(room, tf.float32) + 1)
    top, left = tf.unstack(tf.minimum(tf.cast(offset, tf.int32), room))
    image = image[top : top + size, left : left + size]
    label = label[top : top + size, left : left + size]
    return image, label


def random_scale_crop(
    image: tf.Tensor, label: tf.Tensor, crop_size: int, min_scale: float, max_scale: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales by a uniform factor, pads, crops `crop_size` x `crop_size` at random (arXiv 1706.05587, section 4.1).

    The window of `crop_size / scale` source pixels is cropped first and only that is resized, which gives what
    resizing the whole image would, up to rounding of the window to whole source pixels.
    """
    scale_seed, crop_seed = tf.unstack(tf.random.split(seed, 2))
    scale = tf.random.stateless_uniform([], scale_seed, min_scale, max_scale)
    window = tf.cast(tf.round(crop_size / scale), tf.int32)
    image, label = random_crop(*pad(image, label, window, window), window, crop_seed)
    return resize(image, label, crop_size, crop_size)


def random_resize_or_crop(
    image: tf.Tensor, label: tf.Tensor, crop_size: int, resize_size: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The textbook's: one half of the images squashed to the crop size, the others to `resize_size` and cropped.

    Source: TensorFlow in Action (T. Ganegedara), chapter 8: 444 and 384.
    """
    choice_seed, crop_seed = tf.unstack(tf.random.split(seed, 2))
    if tf.random.stateless_uniform([], choice_seed) < 0.5:
        image, label = resize(image, label, crop_size, crop_size)
    else:
        image, label = random_crop(*resize(image, label, resize_size, resize_size), crop_size, crop_seed)
    return image, label


def random_flip(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors both from left to right, with probability one half."""
    if tf.random.stateless_uniform([], seed) < 0.5:
        image, label = tf.reverse(image, [1]), tf.reverse(label, [1])
    return image, label


def random_colour(image: tf.Tensor, hue: float, brightness: float, contrast: float, seed: tf.Tensor) -> tf.Tensor:
    """Shifts hue (of 1, a full circle), brightness (of 1) and contrast (a factor 1 +- contrast); 0 leaves each out.

    Works on values in [0, 1], clips after each operation, and returns uint8.
    """
    if not (hue or brightness or contrast):
        return image
    hue_seed, brightness_seed, contrast_seed = tf.unstack(tf.random.split(seed, 3))
    values = tf.image.convert_image_dtype(image, tf.float32)
    if hue:
        values = tf.image.stateless_random_hue(values, hue, hue_seed)
    if brightness:
        values = tf.clip_by_value(tf.image.stateless_random_brightness(values, brightness, brightness_seed), 0.0, 1.0)
    if contrast:
        values = tf.image.stateless_random_contrast(values, 1 - contrast, 1 + contrast, contrast_seed)
        values = tf.clip_by_value(values, 0.0, 1.0)
    return tf.image.convert_image_dtype(values, tf.uint8, saturate=True)
