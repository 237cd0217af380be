"""How a trained network segments an image: once, at several scales, mirrored, or window by window."""

import keras
import tensorflow as tf

from deeplab.model.folding import FoldedNetwork
from deeplab.model.parts import Results, ToResults
from deeplab.model.settings import Inference
from deeplab.model.views import of_mean_view, scaled_side
from deeplab.model.windows import Share, Windows, log_of

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
        scores, _ = self.in_parts(images, lambda scores: (scores, ()))
        return scores

    def classes(self, images: tf.Tensor, share: Share | None = None) -> tf.Tensor:
        """As a call, but uint8 class indices [batch, height, width], or only those of a band of large images.

        With windows it never holds the scores of the whole image.
        """
        classes, _ = self.in_parts(images, lambda scores: (classes_of(scores), ()), share=share)
        return classes

    def in_parts(
        self, images: tf.Tensor, to_results: ToResults, *others: tf.Tensor, share: Share | None = None
    ) -> Results:
        """What is wanted of the scores: pixels, and sums over pixels, as `to_results` makes them of each part.

        The parts of `others`, tensors [batch, height, width, ...], are handed to it as well. Parts are smaller than the
        images only with windows. With `share`, only that band of images which are larger than a window.
        """
        inference = self._inference
        is_one = inference.views == [(1.0, False)]
        if inference.window_size:
            num_classes = self.network.outputs[0].shape[-1]
            windows = Windows(inference.window_size, inference.window_overlap, inference.window_batch, num_classes)
            if is_one:
                return windows.of_mean(self._whole, images, to_results, *others, share=share)
            return of_mean_view(windows, self._whole, images, inference.views, to_results, *others, share=share)
        if is_one:
            return to_results(self._whole(images), *others)
        images = tf.cast(images, tf.float32)
        views = [self._view(images, *view) for view in inference.views]
        return to_results(_log_mean(views), *others)

    def _whole(self, images: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.shape(images)[1:3])
        return self.network(_at_least(tf.cast(images, tf.float32), MIN_SIDE), training=False)[:, :height, :width]

    def _view(self, images: tf.Tensor, scale: float, is_mirrored: bool) -> tf.Tensor:
        """Log-probabilities of a view, at the place and size of `images`; half-pixel centers, as in training."""
        if is_mirrored:
            return self._view(images[:, :, ::-1], scale, False)[:, :, ::-1]
        size = tf.shape(images)[1:3]
        scaled = tf.image.resize(images, scaled_side(size, scale)) if scale != 1 else images
        scores = self._whole(scaled)
        return tf.nn.log_softmax(tf.image.resize(scores, size) if scale != 1 else scores)


def _at_least(images: tf.Tensor, side: int) -> tf.Tensor:
    """Extends images at bottom and right to at least this many pixels, with black; larger ones stay as they are."""
    # Not by tf.pad: with a size unknown in advance TensorFlow Lite loses the number of channels.
    batch, height, width, _ = tf.unstack(tf.shape(images))
    channels = images.shape[-1] or 3
    tall = tf.concat([images, tf.zeros([batch, tf.maximum(side - height, 0), width, channels])], 1)
    missing = tf.maximum(side - width, 0)
    return tf.concat([tall, tf.zeros([batch, tf.maximum(height, side), missing, channels])], 2)


def classes_of(scores: tf.Tensor) -> tf.Tensor:
    """Scores [batch, height, width, classes] -> uint8 class indices [batch, height, width]."""
    return tf.cast(tf.argmax(scores, -1), tf.uint8)


def segmentation(scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores [batch, height, width, classes] -> uint8 `classes` [batch, height, width], float32 `probabilities`."""
    return {"classes": classes_of(scores), "probabilities": tf.nn.softmax(scores)}


def segment_one_by_one(predictor: Predictor, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """The `segmentation` of a batch, of which the network is given one image at a time.

    The last bits of a convolution depend on the size of the batch; this way an image's classes never do.
    """

    def one(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: result[0] for name, result in segmentation(predictor(image[tf.newaxis])).items()}

    # The number of classes is known only after the network has been called.
    types = {
        "classes": tf.TensorSpec([None, None], tf.uint8),
        "probabilities": tf.TensorSpec([None, None, None], tf.float32),
    }
    return tf.map_fn(one, images, fn_output_signature=types, parallel_iterations=1)


def _log_mean(views: list[tf.Tensor]) -> tf.Tensor:
    """The log of the mean probability, from log-probabilities."""
    total = tf.exp(views[0])
    for view in views[1:]:
        total += tf.exp(view)
    return log_of(total / len(views))
