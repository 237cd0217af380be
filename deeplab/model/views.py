"""The mean of several views of a large image, each window by window, in memory of a band of rows of each view.

A view is the image at a scale, mirrored or not. Images and scores are resized as by `tf.image.resize`, but some rows at
a time, and their rows before their columns, whose temporary tensors are then smaller.
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab.model.parts import Results, ToResults, any_size, joined
from deeplab.model.windows import Predict, Share, Source, Stream, Windows, log_of, source_of

BAND = 2**18
"""Pixels of the image whose mean is taken at a time."""


class _Bilinear(NamedTuple):
    """How pixels along a side of a resized image come from its own: bilinear, with half-pixel centers.

    Attributes:
        before: for each, the index of its own pixel before it, int32.
        after: that of the one after it.
        weight: the share of `after`, float32.
    """

    before: tf.Tensor
    after: tf.Tensor
    weight: tf.Tensor

    @classmethod
    def of(cls, own: tf.Tensor, resized: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> "_Bilinear":
        """Of the pixels from `first` to before `end`, of an image resized from `own` pixels to `resized` pixels."""
        scale = tf.cast(own, tf.float32) / tf.cast(resized, tf.float32)
        place = (tf.cast(tf.range(first, end), tf.float32) + 0.5) * scale - 0.5
        floor = tf.floor(place)
        before = tf.maximum(tf.cast(floor, tf.int32), 0)
        after = tf.minimum(tf.cast(tf.math.ceil(place), tf.int32), own - 1)
        return cls(before, after, place - floor)

    def rows(self, own: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """[batch, rows, columns, channels] from its own rows, of which `first` is the first one."""
        before = tf.gather(own, self.before - first, axis=1)
        after = tf.gather(own, self.after - first, axis=1)
        return before + (after - before) * self.weight[:, tf.newaxis, tf.newaxis]

    def columns(self, own: tf.Tensor) -> tf.Tensor:
        """[batch, rows, columns, channels] from all its own columns."""
        before = tf.gather(own, self.before, axis=2)
        after = tf.gather(own, self.after, axis=2)
        return before + (after - before) * self.weight[:, tf.newaxis]


class _Place(NamedTuple):
    """How far a view is.

    Attributes:
        row: its next row of windows.
        above: what the rows above add to it.
        first: the first row of the scaled image that is in `scores`.
        scores: those that later bands need, [batch, rows, width of the scaled image, classes].
    """

    row: tf.Tensor
    above: tf.TensorArray
    first: tf.Tensor
    scores: tf.Tensor


class _View:
    """Scores of one view from a row of the image downwards, a band at a time.

    Args:
        windows: how the scaled image is cut.
        predict: the network.
        images: uint8 or float [batch, height, width, 3].
        scale: of the view.
        is_mirrored: whether left and right are exchanged.
        top: the first row of the image that is wanted.

    Attributes:
        any_place: the shapes of places, for loops.
    """

    def __init__(
        self,
        windows: Windows,
        predict: Predict,
        images: tf.Tensor,
        scale: float,
        is_mirrored: bool,
        top: tf.Tensor,
    ) -> None:
        self._image = source_of(images, is_mirrored)
        self._scaled = _scaled(self._image, scale)
        self._is_mirrored = is_mirrored
        self._stream = Stream(windows, predict, self._scaled, lambda scores: (scores, ()))
        self.any_place = _Place(tf.TensorShape([]), None, tf.TensorShape([]), self._stream.any_scores)
        self._first = self._stream.row_at(self._resizing(top, top + 1).before[0])

    def begin(self) -> _Place:
        """Before the first band."""
        row, above = self._stream.begin(self._first)
        nothing, _ = self._stream.nothing()
        return _Place(row, above, self._stream.top_of(self._first), nothing)

    def band(self, place: _Place, top: tf.Tensor, bottom: tf.Tensor) -> tuple[tf.Tensor, _Place]:
        """Log-probabilities [batch, rows, width, classes] of these rows of the image, and how far the view then is."""
        resizing = self._resizing(top, bottom)
        (place,) = tf.while_loop(
            lambda place: place.first + tf.shape(place.scores)[1] <= resizing.after[-1],
            lambda place: (self._with_next_row(place),),
            (place,),
            shape_invariants=(self.any_place,),
            parallel_iterations=1,
        )
        width = self._image.width
        across = _Bilinear.of(self._scaled.width, width, 0, width)
        scores = tf.nn.log_softmax(across.columns(resizing.rows(place.scores, place.first)))

        # The next band begins where this one ends, or between the same two rows.
        first = resizing.before[-1]
        rest = _Place(place.row, place.above, first, place.scores[:, first - place.first :])
        return scores[:, :, ::-1] if self._is_mirrored else scores, rest

    def _with_next_row(self, place: _Place) -> _Place:
        """A row of windows further."""
        nothing = self._stream.nothing()
        row, above, (scores, _) = self._stream.add_row(place.row, self._first, place.above, nothing)
        return _Place(row, above, place.first, tf.concat([place.scores, scores], 1))

    def _resizing(self, top: tf.Tensor, bottom: tf.Tensor) -> _Bilinear:
        """Of scores to the height of the image."""
        return _Bilinear.of(self._scaled.height, self._image.height, top, bottom)


def _scaled(image: Source, scale: float) -> Source:
    """The image at a scale, of which only the rows that are looked at are made."""
    if scale == 1:
        return image
    height = scaled_side(image.height, scale)
    width = scaled_side(image.width, scale)

    def rows(top: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        down = _Bilinear.of(image.height, height, top, top + number)
        first = down.before[0]
        own = image.rows(first, down.after[-1] + 1 - first)
        return _Bilinear.of(image.width, width, 0, width).columns(down.rows(own, first))

    return Source(rows, image.batch, height, width)


def scaled_side(pixels: tf.Tensor, scale: float) -> tf.Tensor:
    """A side of an image at a scale, in pixels; at least 1."""
    return tf.maximum(tf.cast(tf.round(scale * tf.cast(pixels, tf.float32)), tf.int32), 1)


def of_mean_view(
    windows: Windows,
    predict: Predict,
    images: tf.Tensor,
    views: list[tuple[float, bool]],
    to_results: ToResults,
    *others: tf.Tensor,
    share: Share | None = None,
) -> Results:
    """As `Windows.of_mean`, of the mean over views, by scale and whether they are mirrored."""
    _, height, width, _ = tf.unstack(tf.shape(images))

    # The same bands, however many parts there are: the last bits of an exponential depend on where a tensor begins.
    rows = tf.maximum(BAND // width, 1)
    num_bands = (height + rows - 1) // rows
    index, number = share or (0, 1)
    begin = index * num_bands // number * rows
    end = tf.minimum((index + 1) * num_bands // number * rows, height)
    of_views = [_View(windows, predict, images, *view, begin) for view in views]

    def add_band(top: tf.Tensor, places: list[_Place], results: Results) -> tuple:
        bottom = tf.minimum(top + rows, end)

        # One view after the other, so that what one needs in between is freed before the next one.
        total = tf.zeros([])
        next_places = []
        for view, place in zip(of_views, places, strict=True):
            with tf.control_dependencies([total]):
                scores, then = view.band(place, top, bottom)
            total += tf.exp(scores)
            next_places.append(then)

        # Their mean, with what else there is of these rows.
        parts = [each[:, top:bottom] for each in others]
        return bottom, next_places, joined(results, to_results(log_of(total / len(views)), *parts), 1)

    nothing = to_results(
        tf.zeros([tf.shape(images)[0], 0, width, windows.num_classes]), *(each[:, :0] for each in others)
    )
    started = [view.begin() for view in of_views]
    _, _, results = tf.while_loop(
        lambda top, *_: top < end,
        add_band,
        (begin, started, nothing),
        shape_invariants=(tf.TensorShape([]), [view.any_place for view in of_views], any_size(nothing)),
        parallel_iterations=1,
    )
    return results
