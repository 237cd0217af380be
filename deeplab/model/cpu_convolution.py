"""Convolutions on CPUs as one product for each tap of the kernel, without the taps that read only padding.

TensorFlow's own dilated convolutions are fast on some processors only (docs/design.md, convolutions on the
CPU). Where the dilation is large compared with the features, as in ASPP, most of what they compute is padding; here it
is left out. All functions are for stride 1, odd kernels and "same" padding, in NHWC.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Length: TypeAlias = int | tf.Tensor
"""Of a side: a number where it is known when a function is traced, which saves operations."""


class _Tap(NamedTuple):
    """One element of a kernel: its index, row by row, and the offset from an output to the pixel that it reads."""

    place: int
    down: int
    right: int

    def reversed(self) -> "_Tap":
        """The offset from that pixel to the output, for the gradient with respect to the inputs."""
        return self._replace(down=-self.down, right=-self.right)


class _Reach(NamedTuple):
    """What the outputs read along one side at one offset, and where they are.

    Attributes:
        start, end: the pixels that are read.
        length: their number.
        padding: how many outputs lie before and after those that read a pixel.
    """

    start: int
    end: Length
    length: Length
    padding: tf.Tensor | tuple[int, int]


class _Features:
    """Features [batch, height, width, channels], of which taps read windows; each offset is worked out once."""

    def __init__(self, features: tf.Tensor) -> None:
        self._features = features
        self._sizes: list[Length] = features.shape.as_list()
        if None in self._sizes:
            dynamic = tf.unstack(tf.shape(features))
            self._sizes = [dynamic[axis] if size is None else size for axis, size in enumerate(self._sizes)]
        self._reaches: dict[tuple[int, int], _Reach] = {}

    def window(self, tap: _Tap) -> tf.Tensor:
        """The pixels that a tap reads: the features without the edge that no output reads."""
        if not (tap.down or tap.right):
            return self._features
        rows = self._reach(1, tap.down)
        columns = self._reach(2, tap.right)
        return self._features[:, rows.start : rows.end, columns.start : columns.end]

    def product(self, tap: _Tap, matrix: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
        """The tap's window times [channels, n] (or the transpose of [n, channels]): [batch, rows, columns, n]."""
        inner, outer = reversed(matrix.shape) if transpose_b else matrix.shape
        flat = tf.matmul(tf.reshape(self.window(tap), [-1, inner]), matrix, transpose_b=transpose_b)
        rows = self._reach(1, tap.down).length
        columns = self._reach(2, tap.right).length
        return tf.reshape(flat, [self._sizes[0], rows, columns, outer])

    def at_outputs(self, part: tf.Tensor, tap: _Tap) -> tf.Tensor:
        """Results for a tap's window, at the places of the outputs; 0 where the tap reads no pixel."""
        if not (tap.down or tap.right):
            return part
        rows = self._reach(1, tap.down).padding
        columns = self._reach(2, tap.right).padding
        padded = tf.pad(part, [(0, 0), rows, columns, (0, 0)])
        padded.set_shape([*self._features.shape[:3], part.shape[-1]])
        return padded

    def _reach(self, axis: int, offset: int) -> _Reach:
        if (axis, offset) not in self._reaches:
            self._reaches[axis, offset] = _reach(self._sizes[axis], offset)
        return self._reaches[axis, offset]


def _reach(size: Length, offset: int) -> _Reach:
    """What outputs along a side of this size read at an offset."""
    length = size
    if offset:
        length = tf.maximum(size - abs(offset), 0) if tf.is_tensor(size) else max(size - abs(offset), 0)
    start = max(offset, 0)
    missing = size - length if offset else 0
    padding = (missing, 0) if offset < 0 else (0, missing)
    return _Reach(start, start + length, length, tf.stack(padding) if tf.is_tensor(missing) else padding)


def atrous_conv2d(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """Equals `tf.nn.conv2d` with dilations: [batch, height, width, channels] -> [batch, height, width, filters].

    Args:
        inputs: float32 or float64.
        kernel: [kernel height, kernel width, channels, filters], of the same dtype.
        rates: dilation in each dimension.
    """

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        taps = _taps_inside(inputs, kernel, rates)
        matrices = _matrices(kernel)
        outputs = _sum_of_taps(inputs, taps, lambda features, tap: features.product(tap, matrices[tap.place]))

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = _sum_of_taps(
                by_outputs,
                [tap.reversed() for tap in taps],
                lambda features, tap: features.product(tap, matrices[tap.place], transpose_b=True),
            )
            return by_inputs, _kernel_gradient(inputs, by_outputs, kernel, rates)

        return outputs, gradients

    return convolve(inputs, tf.convert_to_tensor(kernel))


def direct_conv2d(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """As `atrous_conv2d`, by `tf.nn.conv2d` and its gradient where the processor has kernels for them.

    The kernel's gradient is that of `atrous_conv2d`: oneDNN's takes three to five times as long where most taps fall on
    padding (docs/measurements.md).
    """
    settings = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, *rates, 1]}

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs), filter=kernel, out_backprop=by_outputs, **settings
            )
            return by_inputs, _kernel_gradient(inputs, by_outputs, kernel, rates)

        return tf.raw_ops.Conv2D(input=inputs, filter=kernel, **settings), gradients

    return convolve(inputs, tf.convert_to_tensor(kernel))


def atrous_depthwise_conv2d(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """Equals `tf.nn.depthwise_conv2d` with dilations, for a kernel [height, width, channels, 1]; shape as `inputs`."""
    kernel = tf.cast(kernel, inputs.dtype)

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        taps = _taps_inside(inputs, kernel, rates)
        factors = [tf.squeeze(matrix, -1) for matrix in _matrices(kernel)]

        def scaled(features: _Features, tap: _Tap) -> tf.Tensor:
            return features.window(tap) * factors[tap.place]

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            read = _Features(inputs)
            added_to = _Features(by_outputs)
            by_kernel = _for_each_place(
                kernel,
                taps,
                by_outputs,
                lambda tap: tf.reduce_sum(read.window(tap) * added_to.window(tap.reversed()), (0, 1, 2)),
            )
            return _sum_of_taps(by_outputs, [tap.reversed() for tap in taps], scaled), by_kernel

        return _sum_of_taps(inputs, taps, scaled), gradients

    return convolve(inputs, kernel)


def _taps_inside(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> list[_Tap]:
    """The taps that read any pixel; all of them if the size is not known before the program runs."""
    height, width = kernel.shape[:2]
    taps = []
    for row in range(height):
        for column in range(width):
            down = (row - height // 2) * rates[0]
            right = (column - width // 2) * rates[1]
            sides = zip((down, right), inputs.shape[1:3], strict=True)
            if all(size is None or abs(offset) < size for offset, size in sides):
                taps.append(_Tap(row * width + column, down, right))
    return taps


def _matrices(kernel: tf.Tensor) -> list[tf.Tensor]:
    """The kernel's elements in order, each [channels, filters]; nothing is copied, since they are contiguous."""
    height, width, channels, filters = kernel.shape
    return tf.unstack(tf.reshape(kernel, [height * width, channels, filters]))


def _sum_of_taps(
    inputs: tf.Tensor, taps: list[_Tap], contribution: Callable[[_Features, _Tap], tf.Tensor]
) -> tf.Tensor:
    """The sum over taps: each one's result for the pixels that it reads, at the places of the outputs."""
    features = _Features(inputs)
    total = features.at_outputs(contribution(features, taps[0]), taps[0])
    for tap in taps[1:]:
        # One after another: otherwise the windows and results of all taps may be in memory at the same time.
        with tf.control_dependencies([total]):
            part = features.at_outputs(contribution(features, tap), tap)
        total = total + part
    return total


def _kernel_gradient(inputs: tf.Tensor, by_outputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """For each tap, the product of the inputs it read and the gradients of the outputs it contributed to."""
    *_, channels, filters = kernel.shape
    read = _Features(inputs)
    added_to = _Features(by_outputs)

    def product(tap: _Tap) -> tf.Tensor:
        pixels = tf.reshape(read.window(tap), [-1, channels])
        gradients = tf.reshape(added_to.window(tap.reversed()), [-1, filters])
        return tf.matmul(pixels, gradients, transpose_a=True)

    return _for_each_place(kernel, _taps_inside(inputs, kernel, rates), by_outputs, product)


def _for_each_place(
    kernel: tf.Tensor, taps: list[_Tap], by_outputs: tf.Tensor, gradient: Callable[[_Tap], tf.Tensor]
) -> tf.Tensor:
    """The gradient with respect to the kernel, from that of each tap; 0 where a tap reads only padding."""
    height, width, channels, filters = kernel.shape
    shape = [channels, filters]
    if len(taps) == height * width == 1:
        return tf.reshape(gradient(taps[0]), kernel.shape)
    places = [tf.zeros(shape, kernel.dtype)] * (height * width)
    last = by_outputs
    for tap in taps:
        # Not before the gradient is there: TensorFlow would merge the windows of the inputs with those of the forward
        # pass, and keep them from there to here. And one after another, as in `_sum_of_taps`.
        with tf.control_dependencies([last]):
            last = tf.reshape(gradient(tap), shape)
        places[tap.place] = last
    return tf.reshape(tf.stack(places), kernel.shape)
