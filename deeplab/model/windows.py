"""Segments a large image window by window, in memory of a row of windows.

Windows go from left to right, row by row. A pixel's mean is known as soon as no later window covers it: then it is
turned into its result, such as a class, or its part of a sum, and its sum of probabilities is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from deeplab.model.parts import Results, ToResults, any_size, joined

Predict = Callable[[tf.Tensor], tf.Tensor]
"""uint8 or float images [batch, height, width, 3] -> logits, or log-probabilities, [batch, height, width, classes]."""

Share = tuple[tf.Tensor, tf.Tensor]
"""Index and number of the bands that images are divided into, from above downwards: one for each device."""


class Source(NamedTuple):
    """Images of which some rows at a time are looked at.

    Attributes:
        rows: takes the first and the number of rows; returns float32 [batch, rows, width, 3].
        batch: int32, as the next two.
        height: in pixels.
        width: in pixels.
    """

    rows: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    batch: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor


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


class _Strip(NamedTuple):
    """A row of windows before its first window.

    Attributes:
        top: its first row of pixels.
        wanted: the first row of pixels that is to have results.
        bottom: the first row of pixels of the next windows, or the end of the image.
        pixels: of the images, float32 [batch, height of a window, width, 3].
        above: what the rows above add to each window.
        is_begin: whether there is no row above.
    """

    top: tf.Tensor
    wanted: tf.Tensor
    bottom: tf.Tensor
    pixels: tf.Tensor
    above: tf.TensorArray
    is_begin: tf.Tensor


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

    def of_mean(
        self,
        predict: Predict,
        images: tf.Tensor,
        to_results: ToResults,
        *others: tf.Tensor,
        share: Share | None = None,
    ) -> Results:
        """The results of the log of the mean probabilities, and of `others`, which have the images' height and width.

        Pixels of the parts are put together, and their sums added up. An image that fits in one window is one part: its
        results are those of what `predict` returns. With `share`, only the results of that band, for larger images.
        """
        stream = Stream(self, predict, source_of(images), to_results, others)
        if share is None:
            return tf.cond(
                stream.is_one_window,
                lambda: to_results(predict(images), *others),
                lambda: stream.run(0, stream.num_rows),
            )
        index, number = share
        return stream.run(index * stream.num_rows // number, (index + 1) * stream.num_rows // number)

    def axis(self, pixels: tf.Tensor) -> _Axis:
        """The windows along a side of so many pixels."""
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


class Stream:
    """The loops over the rows of windows and over the windows of a row; arguments as in `Windows.of_mean`.

    Attributes:
        any_scores: the shape of scores of any part of the images.
    """

    def __init__(
        self,
        windows: Windows,
        predict: Predict,
        source: Source,
        to_results: ToResults,
        others: tuple[tf.Tensor, ...] = (),
    ) -> None:
        self._windows = windows
        self._predict = predict
        self._source = source
        self._to_results = to_results
        self._others = others
        self._down = windows.axis(source.height)
        self._right = windows.axis(source.width)
        self.any_scores = tf.TensorShape([None, None, None, windows.num_classes])

    @property
    def num_rows(self) -> tf.Tensor:
        """Of windows."""
        return tf.size(self._down.starts)

    @property
    def is_one_window(self) -> tf.Tensor:
        """Whether the images fit in one."""
        fits_down = tf.equal(self._down.length, self._source.height)
        fits_right = tf.equal(self._right.length, self._source.width)
        return tf.logical_and(fits_down, fits_right)

    def run(self, first: tf.Tensor, last: tf.Tensor) -> Results:
        """The results of the pixels from this row of windows down to the other one."""
        nothing = self.nothing()
        begin, above = self.begin(first)
        _, _, results = tf.while_loop(
            lambda row, *_: row < last,
            lambda row, above, results: self.add_row(row, first, above, results),
            (begin, above, nothing),
            shape_invariants=(tf.TensorShape([]), None, any_size(nothing)),
            parallel_iterations=1,
        )
        return results

    def nothing(self) -> Results:
        """The results of no pixels, in a part without rows."""
        return self._results(self._zeros(0, self._source.width), 0, 0)

    def begin(self, first: tf.Tensor) -> tuple[tf.Tensor, tf.TensorArray]:
        """The first row of windows that covers pixels of the `first` one whose results are wanted, and no sums."""
        return self._top_row(first), self._sums()

    def _top_row(self, first: tf.Tensor) -> tf.Tensor:
        is_above = self._down.starts + self._down.length <= self.top_of(first)
        return tf.reduce_sum(tf.cast(is_above, tf.int32))

    def top_of(self, row: tf.Tensor) -> tf.Tensor:
        """The first pixel of a row of windows."""
        return self._down.starts[row]

    def row_at(self, pixel: tf.Tensor) -> tf.Tensor:
        """The row of windows with whose end the results of this pixel, counted from above, are known."""
        return tf.reduce_sum(tf.cast(self._down.ends <= pixel, tf.int32))

    def add_row(
        self, row: tf.Tensor, first: tf.Tensor, above: tf.TensorArray, results: Results
    ) -> tuple[tf.Tensor, tf.TensorArray, Results]:
        """Adds a row of windows to the sums `above` it, and what is then finished to the results.

        These are the pixels down to the next row; above the `first` row, they have none.
        """
        top = self._down.starts[row]
        bottom = self._down.ends[row]
        strip = _Strip(
            top=top,
            wanted=tf.where(row < first, bottom, top),
            bottom=bottom,
            pixels=self._source.rows(top, self._down.length),
            above=above,
            is_begin=tf.equal(row, self._top_row(first)),
        )
        begun = _Row(
            group=tf.zeros([0, 0, 0, self._windows.num_classes]),
            side=self._zeros(self._down.length, 0),
            below=self._sums(),
            finished=self._results(self._zeros(bottom - strip.wanted, 0), strip.wanted, 0),
        )
        _, done = tf.while_loop(
            lambda column, _: column < tf.size(self._right.starts),
            lambda column, state: (column + 1, self._add_window(strip, column, state)),
            (0, begun),
            shape_invariants=(
                tf.TensorShape([]),
                _Row(self.any_scores, self.any_scores, None, any_size(begun.finished)),
            ),
            parallel_iterations=1,
        )
        return row + 1, done.below, joined(results, done.finished, 1)

    def _sums(self) -> tf.TensorArray:
        number = tf.size(self._right.starts)
        return tf.TensorArray(tf.float32, number, element_shape=self.any_scores, infer_shape=False)

    def _zeros(self, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        return tf.zeros([self._source.batch, rows, columns, self._windows.num_classes])

    def _results(self, scores: tf.Tensor, top: tf.Tensor, left: tf.Tensor) -> Results:
        """Those of a part of the images, which begins at this pixel."""
        rows, columns = tf.unstack(tf.shape(scores)[1:3])
        return self._to_results(scores, *(each[:, top : top + rows, left : left + columns] for each in self._others))

    def _add_window(self, strip: _Strip, column: tf.Tensor, state: _Row) -> _Row:
        """Adds a window to the sums; the pixels up to the next window, and down to the next row, are then finished."""
        # Its probabilities, from the network with those of the next ones in the row.
        batch = self._source.batch
        place = column % self._windows.batch
        group = tf.cond(tf.equal(place, 0), lambda: self._probabilities(strip.pixels, column), lambda: state.group)
        probabilities = group[place * batch : (place + 1) * batch]

        # What covers its columns: the windows left of it, then those of the rows above. Where there are none, not by
        # adding no rows, whose number TensorFlow 2.21 takes for that of all (findings/lists_keep_their_first_shape.sh).
        total = _added(probabilities, state.side, 2)
        left = self._right.starts[column]
        right = self._right.ends[column]
        of_row = total[:, :, : right - left]
        sums = tf.cond(strip.is_begin, lambda: of_row, lambda: _added(of_row, strip.above.read(column), 1))

        # No later window covers its first rows here.
        counts = (
            self._down.counts[strip.wanted : strip.bottom, tf.newaxis, tf.newaxis]
            * self._right.counts[left:right, tf.newaxis]
        )
        finished = sums[:, strip.wanted - strip.top : strip.bottom - strip.top]
        results = self._results(log_of(finished / counts), strip.wanted, left)
        return _Row(
            group,
            total[:, :, right - left :],
            state.below.write(column, sums[:, strip.bottom - strip.top :]),
            joined(state.finished, results, 2),
        )

    def _probabilities(self, pixels: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        """Those of up to `batch` windows of a row, from this one on: [windows * batch of images, ...]."""
        shape = [None, None, None, pixels.shape[-1]]
        number = tf.minimum(self._windows.batch, tf.size(self._right.starts) - column)
        windows = tf.TensorArray(tf.float32, number, element_shape=shape, infer_shape=False)

        def cut(index: tf.Tensor, windows: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            left = self._right.starts[column + index]
            return index + 1, windows.write(index, pixels[:, :, left : left + self._right.length])

        _, windows = tf.while_loop(lambda index, _: index < number, cut, (0, windows), parallel_iterations=1)
        return tf.nn.softmax(self._predict(windows.concat()))


def source_of(images: tf.Tensor, is_mirrored: bool = False) -> Source:
    """Images [batch, height, width, 3] of any type."""
    batch, height, width, _ = tf.unstack(tf.shape(images))
    step = -1 if is_mirrored else 1

    # As floats, since TensorFlow has no lists of uint8 on GPUs.
    def rows(top: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        return tf.cast(images[:, top : top + number, ::step], tf.float32)

    return Source(rows, batch, height, width)


def _added(sums: tf.Tensor, others: tf.Tensor, axis: int) -> tf.Tensor:
    """Adds `others` to the first rows (axis 1) or columns (axis 2) of the sums."""
    first, rest = tf.split(sums, [tf.shape(others)[axis], -1], axis)
    return tf.concat([first + others, rest], axis)


def log_of(probabilities: tf.Tensor) -> tf.Tensor:
    """A log that is finite even if a probability is 0."""
    return tf.math.log(tf.maximum(probabilities, 1e-30))
