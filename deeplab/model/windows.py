"""Segments a large image window by window, in memory of a row of windows.

Windows go from left to right, row by row. A pixel's mean is known as soon as no later window covers it: then it is
turned into its result, such as a class, and its sum of probabilities is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

Predict = Callable[[tf.Tensor], tf.Tensor]
"""uint8 or float images [batch, height, width, 3] -> logits, or log-probabilities, [batch, height, width, classes]."""


class _Axis(NamedTuple):
    """The windows along one side of the image.

    Attributes:
        starts: their first pixels, int32 [windows].
        ends: where the next one starts, or the image ends: until there the means are then known.
        length: of each window.
        counts: by how many windows each pixel is covered, float32 [pixels].
    """

    starts: tf.Tensor
    ends: tf.Tensor
    length: tf.Tensor
    counts: tf.Tensor


class _Row(NamedTuple):
    """A row of windows, up to the one whose turn it is.

    Attributes:
        group: probabilities of the windows that went through the network together.
        side: sums of the windows so far right of what is finished, [batch, height of a window, pixels, classes].
        below: for each window, its part of the sums that the next row adds to.
        finished: for each window, its part of the results, [pixels, batch, rows, ...].
    """

    group: tf.Tensor
    side: tf.Tensor
    below: tf.TensorArray
    finished: tf.TensorArray


@dataclass(frozen=True)
class Windows:
    """How an image is cut: evenly, into windows of at most `size` pixels that overlap by at least this share.

    Attributes:
        size: longest side of a window.
        overlap: share of a window that the next one also covers.
        batch: how many windows go through the network together.
        num_classes: of the network.
    """

    size: int
    overlap: float
    batch: int
    num_classes: int

    def of_mean(
        self,
        predict: Predict,
        images: tf.Tensor,
        result: Callable[[tf.Tensor], tf.Tensor],
        spec: tf.TensorSpec,
    ) -> tf.Tensor:
        """The `result` of the log of the mean probabilities.

        `result` turns scores [batch, rows, columns, classes] of any part of the image into what is wanted of them,
        which `spec` describes: [batch, rows, columns, ...]. An image that fits in one window gives the result of what
        `predict` returns.
        """
        height, width = tf.unstack(tf.shape(images)[1:3])
        down = self._axis(height)
        right = self._axis(width)
        is_one = tf.logical_and(tf.equal(down.length, height), tf.equal(right.length, width))
        results = tf.cond(
            is_one,
            lambda: result(predict(images)),
            lambda: _Stream(self, predict, images, result, spec, down, right).run(),
        )
        return tf.ensure_shape(results, spec.shape)

    def _axis(self, pixels: tf.Tensor) -> _Axis:
        length = tf.minimum(self.size, pixels)
        stride = max(round(self.size * (1 - self.overlap)), 1)
        count = tf.maximum((pixels - length + stride - 1) // stride, 0) + 1
        step = tf.cast(pixels - length, tf.float32) / tf.cast(tf.maximum(count - 1, 1), tf.float32)
        spread = tf.round(step * tf.range(tf.cast(count, tf.float32)))
        place = tf.range(tf.cast(pixels, tf.float32))
        is_covered = (spread[:, tf.newaxis] <= place) & (place < spread[:, tf.newaxis] + tf.cast(length, tf.float32))
        starts = tf.cast(spread, tf.int32)
        return _Axis(
            starts,
            tf.cast(tf.concat([spread[1:], [tf.cast(pixels, tf.float32)]], 0), tf.int32),
            length,
            tf.reduce_sum(tf.cast(is_covered, tf.float32), 0),
        )


class _Stream:
    """The loops over the rows of windows and over the windows of a row; arguments as in `Windows.of_mean`."""

    def __init__(
        self,
        windows: Windows,
        predict: Predict,
        images: tf.Tensor,
        result: Callable[[tf.Tensor], tf.Tensor],
        spec: tf.TensorSpec,
        down: _Axis,
        right: _Axis,
    ) -> None:
        self._windows = windows
        self._predict = predict
        self._images = images
        self._result = result
        self._spec = spec
        self._down = down
        self._right = right
        self._batch = tf.shape(images)[0]

    def run(self) -> tf.Tensor:
        """[batch, height, width, ...]."""
        _, _, results = tf.while_loop(
            lambda row, *_: row < tf.size(self._down.starts),
            self._add_row,
            (0, self._sums(), self._results(self._down)),
            parallel_iterations=1,
        )
        return _first_axis_to(results.concat(), 1)

    def _sums(self) -> tf.TensorArray:
        shape = [None, None, None, self._windows.num_classes]
        return tf.TensorArray(tf.float32, tf.size(self._right.starts), element_shape=shape, infer_shape=False)

    def _results(self, axis: _Axis) -> tf.TensorArray:
        size = tf.size(axis.starts)
        return tf.TensorArray(self._spec.dtype, size, element_shape=self._spec.shape, infer_shape=False)

    def _add_row(
        self, row: tf.Tensor, above: tf.TensorArray, results: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
        """Adds a row of windows to the sums `above` it; the pixels down to the next row are then finished."""
        none = tf.zeros([0, 0, 0, self._windows.num_classes])
        side = tf.zeros([self._batch, self._down.length, 0, self._windows.num_classes])
        begun = _Row(none, side, self._sums(), self._results(self._right))
        any_size = tf.TensorShape([None, None, None, self._windows.num_classes])
        _, done = tf.while_loop(
            lambda column, _: column < tf.size(self._right.starts),
            lambda column, state: (column + 1, self._add_window(row, column, above, state)),
            (0, begun),
            shape_invariants=(tf.TensorShape([]), _Row(any_size, any_size, None, None)),
            parallel_iterations=1,
        )
        band = _first_axis_to(done.finished.concat(), 2)
        return row + 1, done.below, results.write(row, tf.transpose(band, _moved(band, 1, 0)))

    def _add_window(self, row: tf.Tensor, column: tf.Tensor, above: tf.TensorArray, state: _Row) -> _Row:
        """Adds a window to the sums; the pixels up to the next window, and down to the next row, are then finished."""
        # Its probabilities, from the network with those of the next ones in the row.
        place = column % self._windows.batch
        group = tf.cond(tf.equal(place, 0), lambda: self._probabilities(row, column), lambda: state.group)
        probabilities = group[place * self._batch : (place + 1) * self._batch]

        # What covers its columns: the windows left of it, then those of the rows above.
        total = _added(probabilities, state.side, 2)
        width = self._right.ends[column] - self._right.starts[column]
        of_row = total[:, :, :width]
        sums = tf.cond(tf.equal(row, 0), lambda: of_row, lambda: _added(of_row, above.read(column), 1))

        # No later window covers its first rows here.
        top = self._down.starts[row]
        bottom = self._down.ends[row]
        counts = (
            self._down.counts[top:bottom, tf.newaxis, tf.newaxis]
            * self._right.counts[self._right.starts[column] : self._right.ends[column], tf.newaxis]
        )
        result = self._result(log_of(sums[:, : bottom - top] / counts))
        return _Row(
            group,
            total[:, :, width:],
            state.below.write(column, sums[:, bottom - top :]),
            state.finished.write(column, tf.transpose(result, _moved(result, 2, 0))),
        )

    def _probabilities(self, row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        """Those of up to `batch` windows of a row, from this one on: [windows * batch of images, ...]."""
        top = self._down.starts[row]
        # As floats, since TensorFlow has no lists of uint8 on GPUs.
        band = tf.cast(self._images[:, top : top + self._down.length], tf.float32)
        shape = [None, None, None, self._images.shape[-1]]
        number = tf.minimum(self._windows.batch, tf.size(self._right.starts) - column)
        windows = tf.TensorArray(tf.float32, number, element_shape=shape, infer_shape=False)

        def cut(index: tf.Tensor, windows: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            left = self._right.starts[column + index]
            return index + 1, windows.write(index, band[:, :, left : left + self._right.length])

        _, windows = tf.while_loop(lambda index, _: index < number, cut, (0, windows), parallel_iterations=1)
        return tf.nn.softmax(self._predict(windows.concat()))


def _added(sums: tf.Tensor, others: tf.Tensor, axis: int) -> tf.Tensor:
    """Adds `others` to the first rows (axis 1) or columns (axis 2) of the sums."""
    first, rest = tf.split(sums, [tf.shape(others)[axis], -1], axis)
    return tf.concat([first + others, rest], axis)


def _moved(tensor: tf.Tensor, source: int, target: int) -> list[int]:
    """The permutation that moves an axis; the rank is known."""
    axes = [axis for axis in range(tensor.shape.rank) if axis != source]
    axes.insert(target, source)
    return axes


def _first_axis_to(tensor: tf.Tensor, target: int) -> tf.Tensor:
    return tf.transpose(tensor, _moved(tensor, 0, target))


def log_of(probabilities: tf.Tensor) -> tf.Tensor:
    """A log that is finite even if a probability is 0."""
    return tf.math.log(tf.maximum(probabilities, 1e-30))
