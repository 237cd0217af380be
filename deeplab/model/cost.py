"""The cost of a network: the arithmetic of a forward pass, and the memory that a training step keeps per image.

Both come from the shapes of the layers; nothing is run or traced.
"""

import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from deeplab.model.recomputation import RecomputedNetwork, segments

COPIES_OF_LOGITS = 3
"""The logits, the softmax that the cross-entropy keeps, and the gradient; at full size, the loss's largest tensors."""

_LINEAR = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
)
"""Layers whose gradient does not depend on their inputs."""


def forward_flop(model: keras.Model, size: int) -> int:
    """Floating-point operations of the forward pass for one image of `size` x `size` pixels.

    Those of the convolutions and dense layers: each element of a kernel is multiplied and added once for each position
    of the output. A multiply-add counts as two operations, and taps that fall on padding count as well; published
    tables often count multiply-adds as one.
    """
    total = 0
    for part in _parts(model):
        layers = [layer for layer in _own_layers(part) if _kernel_elements(layer)]
        shapes = _shapes(part, [layer.output for layer in layers], size)
        total += sum(
            2 * _kernel_elements(layer) * math.prod(shape[1:-1]) for layer, shape in zip(layers, shapes, strict=True)
        )
    return total


def activation_bytes(model: keras.Model, size: int) -> int:
    """Bytes that a training step keeps for each image of `size` x `size` pixels between forward and backward pass.

    The tensors that gradients read: inputs of convolutions, of normalization and of whatever else is not linear,
    outputs of ReLUs; and `COPIES_OF_LOGITS` of each output. Of a `RecomputedNetwork`, what its segments read. Scratch
    memory of the kernels is not included.
    """
    total = 0
    for part in _parts(model):
        tensors = [tensor for layer in _own_layers(part) for tensor in _kept(layer)]
        if isinstance(model, RecomputedNetwork):
            tensors = [tensor for segment in segments(part) for tensor in segment.inputs]
        kept = {id(tensor): tensor for tensor in tensors}
        shapes = _shapes(part, list(kept.values()), size)
        total += sum(math.prod(shape) * _bytes(tensor) for tensor, shape in zip(kept.values(), shapes, strict=True))
    shapes = _shapes(model, model.outputs, size)
    logits = sum(math.prod(shape) * _bytes(tensor) for tensor, shape in zip(model.outputs, shapes, strict=True))
    return total + COPIES_OF_LOGITS * logits


def _parts(model: keras.Model) -> Iterator[keras.Model]:
    """The model and the models among its layers: the backbone, whose input is as large as the images."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _parts(layer)


def _own_layers(part: keras.Model) -> list[keras.Layer]:
    return [layer for layer in part.layers if not isinstance(layer, (keras.Model, keras.layers.InputLayer))]


def _kernel_elements(layer: keras.Layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.weights if weight.path.endswith("kernel"))


def _kept(layer: keras.Layer) -> list[keras.KerasTensor]:
    if isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu:
        return [layer.output]
    if isinstance(layer, _LINEAR):
        return []
    inputs = keras.tree.flatten(layer.input)
    # The outputs of a nested model are counted inside it.
    return [tensor for tensor in inputs if not isinstance(tensor._keras_history.operation, keras.Model)]


def _shapes(part: keras.Model, tensors: list[keras.KerasTensor], size: int) -> list[tuple[int, ...]]:
    """The shapes of a model's tensors for one image of this size."""
    probe = keras.Model(part.input, dict(enumerate(tensors)))
    shapes = probe.compute_output_shape((1, size, size, part.input.shape[-1]))
    return [shapes[index] for index in range(len(tensors))]


def _bytes(tensor: keras.KerasTensor) -> int:
    return tf.as_dtype(tensor.dtype).size
