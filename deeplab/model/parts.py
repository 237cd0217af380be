"""What is wanted of the scores of images that are segmented part by part, and how it is put together."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Results = tuple[Any, Any]
"""What is wanted of scores: structures of tensors of pixels [batch, height, width, ...], and of sums over pixels."""

ToResults = Callable[..., Results]
"""Takes float32 scores [batch, rows, columns, classes] of any part of the images, and that part of further tensors
[batch, height, width, ...]. The part may have no rows or no columns; then its sums are 0."""


def joined(first: Results, second: Results, axis: int) -> Results:
    """The results of two parts of the images, one below (axis 1) or right of (axis 2) the other."""
    # One after the other, since TensorFlow has no lists of uint8 on GPUs.
    pixels = tf.nest.map_structure(lambda one, other: tf.concat([one, other], axis), first[0], second[0])
    return pixels, tf.nest.map_structure(tf.add, first[1], second[1])


def any_size(results: Results) -> Results:
    """Shapes of results of any number of pixels."""
    pixels, sums = results
    grown = tf.TensorShape([None, None, None])
    pixel_shapes = tf.nest.map_structure(lambda each: grown.concatenate(each.shape[3:]), pixels)
    return pixel_shapes, tf.nest.map_structure(lambda total: total.shape, sums)
