"""Folds batch normalization into the convolutions before it, for inference on CPUs.

With given statistics a batch normalization is a factor and an offset for each channel. A convolution whose kernel has
the factor and whose bias is the offset computes both at once. TensorFlow's graph optimizer fuses the two operations as
well, but the fused operation takes up to 200 times as long where there is no AVX-512 (docs/design.md, processors).
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclass(frozen=True)
class _Pair:
    """A convolution, the batch normalization that is its only reader, and the convolution that replaces both."""

    convolution: keras.layers.Layer
    norm: keras.layers.BatchNormalization
    folded: keras.layers.Layer

    def read_weights(self) -> None:
        """Gives `folded` the product of the current weights of the two."""
        factor = self.norm.gamma * tf.math.rsqrt(self.norm.moving_variance + self.norm.epsilon)
        mean = self.norm.moving_mean
        if self.convolution.use_bias:
            mean = mean - self.convolution.bias
        kernel = self.convolution.kernel
        is_depthwise = isinstance(self.convolution, keras.layers.DepthwiseConv2D)
        by_filter = tf.reshape(factor, kernel.shape[2:]) if is_depthwise else factor
        self.folded.kernel.assign(kernel * by_filter)
        self.folded.bias.assign(self.norm.beta - mean * factor)


class FoldedNetwork:
    """A network that computes what another one does in inference, with fewer operations.

    Batch normalization that reads anything but a convolution of its own stays as it is. All other layers are shared
    with the original. Create it in the scope of the strategy that runs it.

    Attributes:
        network: the folded network, with the weights that the original had at the last call of `read_weights`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._pairs: list[_Pair] = []
        self.network = self._fold(model)
        self.read_weights()

    def read_weights(self) -> None:
        """Copies the original's current weights."""
        for pair in self._pairs:
            pair.read_weights()

    def _fold(self, model: keras.Model) -> keras.Model:
        norms = {source.name: norm for source, norm in _foldable(model)}
        skipped = {id(norm) for norm in norms.values()}

        def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
            if isinstance(layer, keras.Model):
                return self._fold(layer)
            if layer.name not in norms:
                return layer
            config = layer.get_config() | {"use_bias": True}
            # Drawing values that are then replaced would take more than half of the time.
            config |= {name: "zeros" for name in config if name.endswith("_initializer")}
            folded = type(layer).from_config(config)
            folded.build(layer.input.shape)
            self._pairs.append(_Pair(layer, norms[layer.name], folded))
            return folded

        def call(layer: keras.layers.Layer, *arguments: object, **settings: object) -> object:
            return arguments[0] if id(layer) in skipped else layer(*arguments, **settings)

        return keras.models.clone_model(model, clone_function=copy, call_function=call)


def _foldable(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.BatchNormalization]]:
    """The convolutions of a model, not of models in it, whose only reader is a batch normalization; with it."""
    pairs = []
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        source = norm.input._keras_history.operation
        if isinstance(source, _CONVOLUTIONS) and len(source._outbound_nodes) == 1:
            pairs.append((source, norm))
    return pairs
