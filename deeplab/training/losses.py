"""Losses as ratios of sums, so that any split of the pixels over replicas and batches gives the same value.

`Loss.sums` turns logits and labels into a few sums; sums of parts add up to the sums of the whole; `Loss.parts`
turns sums into loss values. Training all-reduces the sums of a step over the replicas before it takes the ratio;
evaluation adds up the sums of all batches. Void pixels are left out of all sums.
"""

from dataclasses import dataclass

import tensorflow as tf

from deeplab.labels import VOID_LABEL
from deeplab.training.settings import LossSettings


@dataclass(frozen=True)
class Loss:
    """Sparse softmax cross-entropy, Dice, or their sum.

    Label smoothing spreads a share of each pixel's target evenly over all classes (arXiv 1512.00567, section 7). The
    focal loss multiplies each pixel's cross-entropy by (1 - probability of its class) ** gamma (arXiv 1708.02002,
    equation 4). Hard-pixel mining counts only the given share of each image's valid pixels, those with the largest
    weighted cross-entropy: `top_k_percent_pixels` of tensorflow/models (research/deeplab/utils/train_utils.py), but per
    image, so that the loss does not depend on how images are split among replicas, and of the valid pixels only.

    Attributes:
        num_classes: K; labels are 0..K-1, or `VOID_LABEL`.
        settings: which loss, and its parameters.
        class_weights: one weight per class for the cross-entropy, or None for 1 each.
    """

    num_classes: int
    settings: LossSettings = LossSettings()
    class_weights: tuple[float, ...] | None = None

    def sums(self, logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Additive sums of float32 logits [batch, ..., K] and integer labels [batch, ...].

        `cross_entropy` and `weight` (scalars): weighted pixel losses and weights. `intersection`, `probability` and
        `pixels` ([K]): for each class, the sum of its probability over its own pixels, the same sum over all valid
        pixels, and the number of its pixels.
        """
        losses, sums = self.of_part(logits, labels)
        return self.of_losses(losses, labels) | sums

    def of_part(self, logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """What part of an image contributes: its pixels' weighted cross-entropy for `of_losses`, and its Dice sums.

        The former is float32 [batch, ...]; without one of the two losses, it is zeros, and there are no sums.
        """
        labels = tf.cast(labels, tf.int64)  # not int32: on GPUs its arithmetic is done by the host
        valid = tf.not_equal(labels, VOID_LABEL)
        safe_labels = tf.where(valid, labels, 0)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(safe_labels, logits)
        losses = tf.zeros_like(cross_entropy)
        sums = {}
        if self.settings.loss != "dice":
            losses = self._weights(labels) * self._pixel_losses(cross_entropy, logits)
        if self.settings.loss != "cross_entropy":
            # With matrix products, each tensor over all pixels and classes is written once and read once.
            truth = tf.one_hot(tf.reshape(tf.where(valid, labels, -1), [-1]), self.num_classes)  # void: a row of zeros
            of_own_class = tf.reshape(tf.exp(-cross_entropy), [-1])
            is_valid = tf.reshape(tf.cast(valid, tf.float32), [-1])
            probabilities = tf.reshape(tf.nn.softmax(logits), [-1, self.num_classes])
            intersection, pixels = tf.unstack(tf.matmul(tf.stack([of_own_class, is_valid]), truth))
            probability = tf.linalg.matvec(probabilities, is_valid, transpose_a=True)
            sums = {"intersection": intersection, "probability": probability, "pixels": pixels}
        return losses, sums

    def of_losses(self, losses: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The sums of the cross-entropy, from the losses of whole images, of whose pixels the hardest may be wanted.

        They are sums of parts if `is_by_pixel`; there are none if the loss is only Dice.
        """
        if self.settings.loss == "dice":
            return {}
        labels = tf.cast(labels, tf.int64)
        weights = self._weights(labels)
        if not self.is_by_pixel:
            hard = self._hard_pixels(losses, tf.not_equal(labels, VOID_LABEL))
            losses = losses * hard
            weights = weights * hard
        return {"cross_entropy": tf.reduce_sum(losses), "weight": tf.reduce_sum(weights)}

    def _weights(self, labels: tf.Tensor) -> tf.Tensor:
        """Those of the pixels' classes, 0 for void: float32 [batch, ...]."""
        valid = tf.not_equal(labels, VOID_LABEL)
        class_weights = tf.constant(self.class_weights or (1.0,) * self.num_classes, tf.float32)
        return tf.where(valid, tf.gather(class_weights, tf.where(valid, labels, 0)), 0.0)

    def _pixel_losses(self, cross_entropy: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each pixel, with label smoothing and focal factor if set: float32 [batch, ...]."""
        losses = cross_entropy
        if self.settings.label_smoothing:
            uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
            losses = (1 - self.settings.label_smoothing) * cross_entropy + self.settings.label_smoothing * uniform
        if self.settings.focal_gamma:
            # At least 1e-7: at 0, a power below 1 has no finite gradient.
            losses *= tf.maximum(-tf.math.expm1(-cross_entropy), 1e-7) ** self.settings.focal_gamma
        return losses

    def _hard_pixels(self, losses: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """1.0 for the pixels whose loss is among the largest of their image, else 0.0: float32 [batch, ...]."""
        flat = tf.reshape(losses, [tf.shape(losses)[0], -1])
        counts = tf.reduce_sum(tf.cast(tf.reshape(valid, tf.shape(flat)), tf.float32), 1)
        kept = tf.cast(tf.math.ceil(self.settings.hard_pixel_fraction * counts), tf.int32)
        largest = tf.math.top_k(flat, tf.maximum(tf.reduce_max(kept), 1)).values
        thresholds = tf.gather(largest, tf.maximum(kept - 1, 0), axis=1, batch_dims=1)
        hard = valid & tf.reshape(flat >= thresholds[:, tf.newaxis], tf.shape(losses))
        return tf.stop_gradient(tf.cast(hard, tf.float32))

    @property
    def is_by_pixel(self) -> bool:
        """Whether the sums of parts of an image add up to its own; hard pixels are the hardest of the whole image."""
        return self.settings.hard_pixel_fraction == 1

    @property
    def gradient_needs_logits(self) -> bool:
        """Whether `gradient` depends on the logits of all images, not only on their labels."""
        return self.settings.loss != "cross_entropy" or self.settings.hard_pixel_fraction < 1

    def gradient(self, sums: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Derivatives of `loss` with respect to each sum; the sums are those of one whole, such as a global batch."""
        with tf.GradientTape() as tape:
            tape.watch(sums)
            loss = self.parts(sums)["loss"]
        return tape.gradient(loss, sums, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def parts(self, sums: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Sums of one whole, such as a global batch -> scalars: `loss` and, if it has two parts, these.

        Dice is 1 - 2 I_c / (P_c + N_c), averaged over the classes with pixels (V-Net, arXiv 1606.04797, without its
        squares). If all pixels are void, each part is 0, with zero gradients.
        """
        parts = {}
        if self.settings.loss != "dice":
            parts["cross_entropy"] = tf.math.divide_no_nan(sums["cross_entropy"], sums["weight"])
        if self.settings.loss != "cross_entropy":
            dice = tf.math.divide_no_nan(2.0 * sums["intersection"], sums["probability"] + sums["pixels"])
            present = tf.cast(sums["pixels"] > 0, dice.dtype)
            parts["dice"] = tf.math.divide_no_nan(tf.reduce_sum(present * (1.0 - dice)), tf.reduce_sum(present))
        loss = tf.add_n(list(parts.values()))
        return {"loss": loss, **parts} if len(parts) > 1 else {"loss": loss}
