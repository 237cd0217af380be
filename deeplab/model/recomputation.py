"""A network whose training keeps few features for the gradient and computes the others a second time.

The network is cut into segments. A segment keeps what it reads; its gradient computes its features again, from the same
statistics and the same dropout. Nothing that a forward pass changes is changed twice, and no collective is repeated.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import tensorflow as tf

from deeplab.model.convolution import AtrousConv2D

T = TypeVar("T")
_Take = Callable[[Callable], Any]
"""Draws, or returns what was drawn before."""

_Values = list[tuple[keras.Variable, tf.Tensor]]

_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)


class RecomputedNetwork(keras.Model):
    """A functional model, `keras.Model(inputs, outputs)`, that takes less memory in training.

    The values are those of the plain model; between forward and backward pass it keeps only what joins its segments.
    """

    def __init__(self, inputs: keras.KerasTensor, outputs: keras.KerasTensor, name: str | None = None) -> None:
        super().__init__(inputs, outputs, name=name)
        # Under a mixed policy Keras would round all weights that are read here; each layer casts its own.
        self.dtype_policy = "float32"

    def call(self, inputs: tf.Tensor, training: bool = False, mask: tf.Tensor | None = None) -> list[tf.Tensor]:
        """As the plain model's, whose first input this is."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs = _run(self, [tf.cast(inputs, self.inputs[0].dtype)])
        return keras.tree.pack_sequence_as(self.output, outputs)


def drawn_once(draw: Callable[[], T]) -> T:
    """What `draw` returns; when a segment is computed again, what it returned the first time."""
    return _draws.take(draw)


class _Draws(threading.local):
    """How values are drawn; each replica has its own thread, and is traced in turns with the others."""

    def __init__(self) -> None:
        self.take: _Take = lambda draw: draw()


_draws = _Draws()


@contextlib.contextmanager
def _drawing(take: _Take) -> Iterator[None]:
    before = _draws.take
    _draws.take = take
    try:
        yield
    finally:
        _draws.take = before


@dataclass(frozen=True)
class Segment:
    """Calls of layers, in order, between features that are kept.

    Attributes:
        nodes: Keras's records of the calls; or one record, of a model in the model.
        inputs: the symbolic tensors that it reads.
        outputs: those of its own that later segments read, or that the model returns.
    """

    nodes: list[Any]
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]

    @property
    def layers(self) -> list[keras.Layer]:
        """Those that are called."""
        return [node.operation for node in self.nodes if isinstance(node.operation, keras.Layer)]

    def compute(self, inputs: Sequence[tf.Tensor], variables: _Values, take: _Take) -> tuple[list[tf.Tensor], _Values]:
        """Calls the layers.

        Args:
            inputs: the values of `inputs`.
            variables: the layers' variables with their values; none is read or changed.
            take: how random values and statistics are drawn.

        Returns:
            The values of `outputs`, and the variables with what the calls made of them.
        """
        values = dict(zip(map(id, self.inputs), inputs, strict=True))
        with keras.StatelessScope(variables) as scope, _drawing(take):
            for node in self.nodes:
                arguments, settings = node.arguments.fill_in(values)
                if getattr(node.operation, "_call_has_training_arg", False):
                    settings["training"] = True
                outputs = keras.tree.flatten(node.operation(*arguments, **settings))
                values |= zip(map(id, node.outputs), outputs, strict=True)
            after = [(variable, scope.get_current_value(variable)) for variable, _ in variables]
        return [values[id(output)] for output in self.outputs], after


def segments(model: keras.Model) -> list[Segment]:
    """The segments of a functional model, in order; a model in the model is one.

    Kept are the outputs of convolutions with a spatial kernel, which cost the most, and those of residual blocks, whose
    gradient then reaches no further back.
    """
    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth] if not node.is_input]
    parts: list[list[Any]] = [[]]
    for node, following in itertools.pairwise([*nodes, None]):
        parts[-1].append(node)
        if following and _is_kept(node.operation, following.operation):
            parts.append([])

    found = []
    later = list(model.outputs)
    for part in reversed(parts):
        made = {id(tensor) for node in part for tensor in node.outputs}
        read = _unique(tensor for node in part for tensor in node.input_tensors)
        outputs = [tensor for tensor in _unique(later) if id(tensor) in made]
        inputs = [tensor for tensor in read if id(tensor) not in made]
        found.append(Segment(part, inputs, outputs))
        later += inputs
    return found[::-1]


def _unique(tensors: Iterable[keras.KerasTensor]) -> list[keras.KerasTensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _is_kept(layer: keras.Operation, following: keras.Operation) -> bool:
    """Whether a layer's output is kept, by the layer and the one that is called next."""
    if isinstance(layer, keras.Model) or isinstance(following, keras.Model):
        return True
    if isinstance(layer, AtrousConv2D):
        return max(layer.kernel_size) > 1
    if isinstance(layer, _ACTIVATIONS):
        return isinstance(layer.input._keras_history.operation, keras.layers.Add)
    return isinstance(layer, keras.layers.Add) and not isinstance(following, _ACTIVATIONS)


def _run(model: keras.Model, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """The outputs of a functional model in training, segment by segment."""
    values = dict(zip(map(id, model.inputs), inputs, strict=True))
    for segment in segments(model):
        read = [values[id(tensor)] for tensor in segment.inputs]
        layer = segment.nodes[0].operation
        if isinstance(layer, keras.Model):
            values |= zip(map(id, segment.nodes[0].outputs), _run(layer, read), strict=True)
        else:
            values |= zip(map(id, segment.outputs), _recomputed(segment, read), strict=True)
    return [values[id(output)] for output in model.outputs]


def _recomputed(segment: Segment, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """The segment's outputs, by a function whose gradient computes everything in between again."""
    trained = [variable for layer in segment.layers for variable in layer.trainable_variables]
    # Statistics and dropout's random state as they are before, for both times.
    state = [
        (variable, tf.convert_to_tensor(variable.value))
        for layer in segment.layers
        for variable in layer.non_trainable_variables
    ]
    num_inputs = len(inputs)
    updates: _Values = []

    def compute(tensors: Sequence[tf.Tensor], take: _Take) -> tuple[list[tf.Tensor], _Values]:
        weights = list(zip(trained, tensors[num_inputs:], strict=True))
        outputs, after = segment.compute(tensors[:num_inputs], weights + state, take)
        return outputs, after[len(weights) :]

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> tuple:
        drawn: list[object] = []

        def draw_and_note(draw: Callable) -> object:
            drawn.append(draw())
            return drawn[-1]

        outputs, after = compute(tensors, draw_and_note)
        updates.extend(after)

        def gradient(*output_gradients: tf.Tensor) -> list[tf.Tensor | None]:
            # Not before the gradient is there: otherwise TensorFlow computes it at once, or merges it with the first.
            with tf.control_dependencies(output_gradients):
                again = [tf.identity(tensor) for tensor in tensors[:num_inputs]]
            again += tensors[num_inputs:]
            noted = iter(drawn)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(again)
                outputs, _ = compute(again, lambda draw: next(noted))
            return tape.gradient(outputs, again, output_gradients)

        return outputs, gradient

    # Variables are read and written here, outside of that function.
    outputs = run(*inputs, *[tf.convert_to_tensor(variable.value) for variable in trained])
    for (variable, before), (_, after) in zip(state, updates, strict=True):
        if after is not before:
            variable.assign(after)
    return keras.tree.flatten(outputs)
