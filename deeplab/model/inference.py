"""How a trained network segments an image: once, at several scales, mirrored, or window by window."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from deeplab.model.folding import FoldedNetwork
from deeplab.settings import setting


@dataclass(frozen=True)
class Inference:
    """Inference.

    The views to average over; the default is one pass over the whole image. The paper's scales are in its table 6.
    """

    scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales to average probabilities over; in the paper 0.5,0.75,1.0,1.25,1.5,1.75.",
        lower=0.1,
        upper=10.0,
        hyperparameter=False,
    )
    flip: bool = setting(False, "Also average over the mirrored image.", hyperparameter=False)
    window_size: int = setting(
        0,
        "Cut larger images into overlapping windows of this many pixels; 0: whole images.",
        lower=0,
        hyperparameter=False,
    )
    window_overlap: float = setting(
        1 / 3, "Share of a window that the next one also covers.", lower=0.0, upper=0.9, hyperparameter=False
    )


MIN_SIDE = 33
"""Pixels: smaller images are padded to this size, so that they do not vanish in a network of stride 32."""


class Predictor:
    """Class scores of images by a network's weights; for use inside a `tf.function`.

    On CPUs in float32 it computes with a copy of the network whose batch normalization is folded into the kernels; all
    programs that segment images do the same, so that they get the same bits. Create it in the scope of the strategy
    that runs it.

    Args:
        model: the network.
        inference: the views to average over.
    """

    def __init__(self, model: keras.Model, inference: Inference = Inference()) -> None:
        self._inference = inference
        is_folded = model.compute_dtype == "float32" and not tf.config.list_logical_devices("GPU")
        self._folded = FoldedNetwork(model) if is_folded else None
        self.network = self._folded.network if self._folded else model

    def read_weights(self) -> None:
        """Copies the network's current weights; call it when they have changed since this object was created."""
        if self._folded:
            self._folded.read_weights()

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 or float [batch, height, width, 3] in [0, 255] -> float32 scores [batch, height, width, classes].

        The scores are the network's logits or, where views are averaged, the logarithms of the mean probabilities; the
        softmax of either gives probabilities.
        """
        inference = self._inference
        if inference.scales == (1.0,) and not inference.flip:
            return self._in_windows(images)
        images = tf.cast(images, tf.float32)
        views = [self._at_scale(images, scale) for scale in inference.scales]
        if inference.flip:
            views += [self._at_scale(images[:, :, ::-1], scale)[:, :, ::-1] for scale in inference.scales]
        return _log_mean(views)

    def _whole(self, images: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.shape(images)[1:3])
        return self.network(_at_least(tf.cast(images, tf.float32), MIN_SIDE), training=False)[:, :height, :width]

    def _in_windows(self, images: tf.Tensor) -> tf.Tensor:
        if not self._inference.window_size:
            return self._whole(images)
        return _log_mean_of_windows(self._whole, images, self._inference.window_size, self._inference.window_overlap)

    def _at_scale(self, images: tf.Tensor, scale: float) -> tf.Tensor:
        """Log-probabilities at the size of `images`; resized with half-pixel centers, as in training."""
        size = tf.shape(images)[1:3]
        scaled_size = tf.maximum(tf.cast(tf.round(scale * tf.cast(size, tf.float32)), tf.int32), 1)
        scaled = tf.image.resize(images, scaled_size) if scale != 1 else images
        scores = self._in_windows(scaled)
        return tf.nn.log_softmax(tf.image.resize(scores, size) if scale != 1 else scores)


def _at_least(images: tf.Tensor, side: int) -> tf.Tensor:
    """Extends images at bottom and right to at least this many pixels, with black; larger ones stay as they are."""
    # Not by tf.pad: with a size unknown in advance TensorFlow Lite loses the number of channels.
    batch, height, width, _ = tf.unstack(tf.shape(images))
    channels = images.shape[-1] or 3
    tall = tf.concat([images, tf.zeros([batch, tf.maximum(side - height, 0), width, channels])], 1)
    missing = tf.maximum(side - width, 0)
    return tf.concat([tall, tf.zeros([batch, tf.maximum(height, side), missing, channels])], 2)


def segmentation(scores: tf.Tensor, with_probabilities: bool = True) -> dict[str, tf.Tensor]:
    """Scores [batch, height, width, classes] -> uint8 `classes` [batch, height, width], float32 `probabilities`."""
    classes = {"classes": tf.cast(tf.argmax(scores, -1), tf.uint8)}
    return classes | {"probabilities": tf.nn.softmax(scores)} if with_probabilities else classes


def segment_one_by_one(
    predict: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor, with_probabilities: bool
) -> dict[str, tf.Tensor]:
    """The `segmentation` of a batch by the scores of `predict`, which is given one image at a time.

    The last bits of a convolution depend on the size of the batch; this way an image's classes never do.
    """

    def one(image: tf.Tensor) -> dict[str, tf.Tensor]:
        results = segmentation(predict(image[tf.newaxis]), with_probabilities)
        return {name: result[0] for name, result in results.items()}

    # The number of classes is known only after the network has been called.
    types = {"classes": tf.TensorSpec([None, None], tf.uint8)}
    if with_probabilities:
        types["probabilities"] = tf.TensorSpec([None, None, None], tf.float32)
    return tf.map_fn(one, images, fn_output_signature=types, parallel_iterations=1)


def _log_mean(views: list[tf.Tensor]) -> tf.Tensor:
    """The log of the mean probability, from log-probabilities."""
    total = tf.exp(views[0])
    for view in views[1:]:
        total += tf.exp(view)
    return _log(total / len(views))


def _log_mean_of_windows(
    predict: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor, window_size: int, overlap: float
) -> tf.Tensor:
    """Log of the mean probability over evenly spread windows of at most `window_size`, with at least this overlap.

    An image that fits in one window gives the result of `predict`.
    """
    height, width = tf.unstack(tf.shape(images)[1:3])
    tops, window_height = _window_starts(height, window_size, overlap)
    lefts, window_width = _window_starts(width, window_size, overlap)
    if_one = tf.logical_and(tf.equal(window_height, height), tf.equal(window_width, width))

    def many() -> tf.Tensor:
        starts = tf.reshape(tf.stack(tf.meshgrid(tops, lefts, indexing="ij"), -1), [-1, 2])

        def place(start: tf.Tensor) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
            top, left = tf.unstack(start)
            window = images[:, top : top + window_height, left : left + window_width]
            probabilities = tf.nn.softmax(predict(window))
            around = [[0, 0], [top, height - top - window_height], [left, width - left - window_width], [0, 0]]
            return tf.pad(probabilities, around), tf.pad(tf.ones_like(probabilities[:1, :, :, :1]), around)

        def add(sums: tuple[tf.Tensor, tf.Tensor], start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            probabilities, count = place(start)
            return sums[0] + probabilities, sums[1] + count

        first = place(starts[0])
        total, count = tf.foldl(add, starts[1:], first, parallel_iterations=1)
        return _log(total / count)

    return tf.cond(if_one, lambda: predict(images), many)


def _window_starts(length: tf.Tensor, window_size: int, overlap: float) -> tuple[tf.Tensor, tf.Tensor]:
    """First pixels of the windows along one side (int32 [windows]), and their length."""
    window = tf.minimum(window_size, length)
    stride = max(round(window_size * (1 - overlap)), 1)
    count = tf.maximum((length - window + stride - 1) // stride, 0) + 1
    spread = tf.linspace(0.0, tf.cast(length - window, tf.float32), count)
    return tf.cast(tf.round(spread), tf.int32), window


def _log(probabilities: tf.Tensor) -> tf.Tensor:
    """A log that is finite even if a probability is 0."""
    return tf.math.log(tf.maximum(probabilities, 1e-30))
