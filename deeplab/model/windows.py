"""Segments a large image window by window, in memory of a row of windows.

Windows go from left to right, row by row. A pixel's mean is known as soon as no later window covers it: then it is
turned into its result, such as a class, or its part of a sum, and its sum of probabilities is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

Predict = Callable[[tf.Tensor], tf.Tensor]
"""uint8 or float images [batch, height, width, 3] -> logits, or log-probabilities, [batch, height, width, classes]."""

Results = tuple[tf.Tensor, Any]
"""What is wanted of scores: a tensor of pixels [batch, height, width, ...], and a structure of sums over pixels."""

ToResults = Callable[..., Results]
"""Takes float32 scores [batch, rows, columns, classes] of any part of the images, and that part of further tensors
[batch, height, width, ...]. The part may have no rows or no columns; then its sums are 0."""


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
        finished: the results down to the next row.
    """

    group: tf.Tensor
    side: tf.Tensor
    below: tf.TensorArray
    finished: Results


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

    def of_mean(self, predict: Predict, images: tf.Tensor, to_results: ToResults, *others: tf.Tensor) -> Results:
        """The results of the log of the mean probabilities, and of `others`, which have the images' height and width.

        Pixels of the parts are put together, and their sums added up. An image that fits in one window is one part: its
        results are those of what `predict` returns.
        """
        height, width = tf.unstack(tf.shape(images)[1:3])
        down = self._axis(height)
        right = self._axis(width)
        is_one = tf.logical_and(tf.equal(down.length, height), tf.equal(right.length, width))
        return tf.cond(
            is_one,
            lambda: to_results(predict(images), *others),
            lambda: _Stream(self, predict, images, to_results, others, down, right).run(),
        )

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
        to_results: ToResults,
        others: tuple[tf.Tensor, ...],
        down: _Axis,
        right: _Axis,
    ) -> None:
        self._windows = windows
        self._predict = predict
        self._images = images
        self._to_results = to_results
        self._others = others
        self._down = down
        self._right = right
        self._batch = tf.shape(images)[0]

    def run(self) -> Results:
        """The results of the images."""
        nothing = self._results(self._zeros(0, tf.shape(self._images)[2]), 0, 0)
        _, _, results = tf.while_loop(
            lambda row, *_: row < tf.size(self._down.starts),
            self._add_row,
            (0, self._sums(), nothing),
            shape_invariants=(tf.TensorShape([]), None, _any_size(nothing)),
            parallel_iterations=1,
        )
        return results

    def _sums(self) -> tf.TensorArray:
        shape = [None, None, None, self._windows.num_classes]
        return tf.TensorArray(tf.float32, tf.size(self._right.starts), element_shape=shape, infer_shape=False)

    def _zeros(self, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        return tf.zeros([self._batch, rows, columns, self._windows.num_classes])

    def _results(self, scores: tf.Tensor, top: tf.Tensor, left: tf.Tensor) -> Results:
        """Those of a part of the images, which begins at this pixel."""
        rows, columns = tf.unstack(tf.shape(scores)[1:3])
        return self._to_results(scores, *(each[:, top : top + rows, left : left + columns] for each in self._others))

    def _add_row(
        self, row: tf.Tensor, above: tf.TensorArray, results: Results
    ) -> tuple[tf.Tensor, tf.TensorArray, Results]:
        """Adds a row of windows to the sums `above` it; the pixels down to the next row are then finished."""
        top = self._down.starts[row]
        begun = _Row(
            group=tf.zeros([0, 0, 0, self._windows.num_classes]),
            side=self._zeros(self._down.length, 0),
            below=self._sums(),
            finished=self._results(self._zeros(self._down.ends[row] - top, 0), top, 0),
        )
        any_size = tf.TensorShape([None, None, None, self._windows.num_classes])
        _, done = tf.while_loop(
            lambda column, _: column < tf.size(self._right.starts),
            lambda column, state: (column + 1, self._add_window(row, column, above, state)),
            (0, begun),
            shape_invariants=(tf.TensorShape([]), _Row(any_size, any_size, None, _any_size(begun.finished))),
            parallel_iterations=1,
        )
        return row + 1, done.below, _joined(results, done.finished, 1)

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
        results = self._results(log_of(sums[:, : bottom - top] / counts), top, self._right.starts[column])
        return _Row(
            group,
            total[:, :, width:],
            state.below.write(column, sums[:, bottom - top :]),
            _joined(state.finished, results, 2),
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


def _joined(first: Results, second: Results, axis: int) -> Results:
    """The results of two parts of the images, one below (axis 1) or right of (axis 2) the other."""
    # One after the other, since TensorFlow has no lists of uint8 on GPUs.
    return tf.concat([first[0], second[0]], axis), tf.nest.map_structure(tf.add, first[1], second[1])


def _any_size(results: Results) -> tuple[tf.TensorShape, Any]:
    """Shapes of results of any number of pixels."""
    pixels, sums = results
    any_size = tf.TensorShape([None, None, None]).concatenate(pixels.shape[3:])
    return any_size, tf.nest.map_structure(lambda total: total.shape, sums)


def log_of(probabilities: tf.Tensor) -> tf.Tensor:
    """A log that is finite even if a probability is 0."""
    return tf.math.log(tf.maximum(probabilities, 1e-30))
