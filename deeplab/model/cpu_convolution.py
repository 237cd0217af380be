"""Convolutions on CPUs as one product for each tap of the kernel, without the taps that read only padding.

TensorFlow's own dilated convolutions are fast on some processors only (docs/design.md, convolutions on the
CPU). Where the dilation is large compared with the features, as in ASPP, most of what they compute is padding; here it
is left out. All functions are for stride 1, odd kernels and "same" padding, in NHWC.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

Sizes: TypeAlias = np.ndarray | tf.Tensor
"""Of the four sides of a tensor: numbers where they are known when a function is traced, which saves operations."""


class _Tap(NamedTuple):
    """One element of a kernel: its index, row by row, and the offset from an output to the pixel that it reads."""

    place: int
    down: int
    right: int

    def reversed(self) -> "_Tap":
        """The offset from that pixel to the output, for the gradient with respect to the inputs."""
        return self._replace(down=-self.down, right=-self.right)


class _Outputs:
    """Outputs [batch, height, width, channels] of the features' size, sums of what taps make of their windows.

    Args:
        features: those that the taps read.
        channels: of the outputs.
    """

    def __init__(self, features: tf.Tensor, channels: int) -> None:
        self._shape = [*features.shape[:3], channels]
        self._size = _size_with(channels, features)
        self._sizes = {(0, 0, 0, 0): self._size}
        """Of windows, by what they have less than the features; each is worked out once."""

    def placed(self, part: tf.Tensor, tap: _Tap) -> tf.Tensor:
        """What a tap makes of its window, [pixels, channels], at the places of the outputs; 0 where it reads no pixel.

        It may have the window's height and width, too.
        """
        part = tf.reshape(part, self._size_without(abs(tap.down), abs(tap.right)))
        if tap.down or tap.right:
            around = [(0, 0), *((max(-offset, 0), max(offset, 0)) for offset in (tap.down, tap.right)), (0, 0)]
            part = tf.pad(part, tf.minimum(around, self._most_around) if tf.is_tensor(self._size) else around)
        part.set_shape(self._shape)
        return part

    @functools.cached_property
    def _most_around(self) -> tf.Tensor:
        """[4, 1]; more than there are pixels where a tap reads only padding."""
        return self._size[:, tf.newaxis]

    def _size_without(self, rows: int, columns: int) -> Sizes:
        less = (0, rows, columns, 0)
        if not tf.is_tensor(self._size):
            return self._size - less
        if less not in self._sizes:
            self._sizes[less] = tf.maximum(self._size - less, 0)
        return self._sizes[less]


def _size_with(channels: int, features: tf.Tensor) -> Sizes:
    """The size of the features, had they so many channels."""
    if features.shape.is_fully_defined():
        return np.array([*features.shape[:3], channels])
    return tf.stack([*tf.unstack(tf.shape(features))[:3], channels])


def _window(features: tf.Tensor, tap: _Tap) -> tf.Tensor:
    """The pixels that a tap reads: the features without the edge that no output reads."""
    if not (tap.down or tap.right):
        return features
    rows, columns = (slice(max(offset, 0), min(offset, 0) or None) for offset in (tap.down, tap.right))
    return features[:, rows, columns]


def _product(features: tf.Tensor, tap: _Tap, matrix: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """The tap's window times [channels, n] (or the transpose of [n, channels]): [pixels, n]."""
    return tf.matmul(tf.reshape(_window(features, tap), [-1, features.shape[-1]]), matrix, transpose_b=transpose_b)


def pointwise_conv2d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Equals `tf.nn.conv2d` with a kernel [1, 1, channels, filters]: -> [batch, height, width, filters]."""
    *_, channels, filters = kernel.shape
    flat = tf.matmul(tf.reshape(inputs, [-1, channels]), tf.squeeze(kernel, (0, 1)))
    outputs = tf.reshape(flat, _size_with(filters, inputs))
    outputs.set_shape([*inputs.shape[:3], filters])
    return outputs


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
        *_, channels, filters = kernel.shape
        outputs = _sum_of_taps(inputs, filters, taps, lambda tap: _product(inputs, tap, matrices[tap.place]))

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = _sum_of_taps(
                by_outputs,
                channels,
                [tap.reversed() for tap in taps],
                lambda tap: _product(by_outputs, tap, matrices[tap.place], transpose_b=True),
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

        def scaled_sum(features: tf.Tensor, taps: list[_Tap]) -> tf.Tensor:
            channels = kernel.shape[2]
            return _sum_of_taps(features, channels, taps, lambda tap: _window(features, tap) * factors[tap.place])

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_kernel = _for_each_place(
                kernel,
                taps,
                by_outputs,
                lambda tap: tf.reduce_sum(_window(inputs, tap) * _window(by_outputs, tap.reversed()), (0, 1, 2)),
            )
            return scaled_sum(by_outputs, [tap.reversed() for tap in taps]), by_kernel

        return scaled_sum(inputs, taps), gradients

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
    features: tf.Tensor, channels: int, taps: list[_Tap], contribution: Callable[[_Tap], tf.Tensor]
) -> tf.Tensor:
    """The sum over taps of what they contribute, with so many channels, at the places of the outputs."""
    outputs = _Outputs(features, channels)
    total = outputs.placed(contribution(taps[0]), taps[0])
    for tap in taps[1:]:
        # One after another: otherwise the windows and results of all taps may be in memory at the same time.
        with tf.control_dependencies([total]):
            part = outputs.placed(contribution(tap), tap)
        total = total + part
    return total


def _kernel_gradient(inputs: tf.Tensor, by_outputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """For each tap, the product of the inputs it read and the gradients of the outputs it contributed to."""
    *_, channels, filters = kernel.shape

    def product(tap: _Tap) -> tf.Tensor:
        pixels = tf.reshape(_window(inputs, tap), [-1, channels])
        gradients = tf.reshape(_window(by_outputs, tap.reversed()), [-1, filters])
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
