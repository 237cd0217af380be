"""Convolutions on CPUs as one product for each tap of the kernel, without the taps that read only padding.

TensorFlow's own dilated convolutions are fast on some processors only (docs/design.md, convolutions on the
CPU). Where the dilation is large compared with the features, as in ASPP, most of what they compute is padding; here it
is left out. All functions are for stride 1, odd kernels and "same" padding, in NHWC.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class _Tap(NamedTuple):
    """One element of a kernel: its index, row by row, and the offset from an output to the pixel that it reads."""

    place: int
    down: int
    right: int

    def reversed(self) -> "_Tap":
        """The offset from that pixel to the output, for the gradient with respect to the inputs."""
        return self._replace(down=-self.down, right=-self.right)


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
        outputs = _sum_of_shifted(inputs, taps, lambda window, tap: _product(window, matrices[tap.place]))

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = _sum_of_shifted(
                by_outputs,
                [tap.reversed() for tap in taps],
                lambda window, tap: _product(window, matrices[tap.place], transpose_b=True),
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

        def scaled(window: tf.Tensor, tap: _Tap) -> tf.Tensor:
            return window * factors[tap.place]

        def gradients(by_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_kernel = _for_each_place(
                kernel,
                taps,
                lambda tap: tf.reduce_sum(
                    _window(inputs, tap.down, tap.right) * _window(by_outputs, -tap.down, -tap.right), (0, 1, 2)
                ),
            )
            return _sum_of_shifted(by_outputs, [tap.reversed() for tap in taps], scaled), by_kernel

        return _sum_of_shifted(inputs, taps, scaled), gradients

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


def _window(features: tf.Tensor, down: int, right: int) -> tf.Tensor:
    """The pixels that a tap with this offset reads: `features` without the edge that no output reads."""
    if not (down or right):
        return features
    _, height, width, _ = _sizes(features)
    top = max(down, 0)
    left = max(right, 0)
    bottom = top + _at_least_0(height - abs(down))
    end = left + _at_least_0(width - abs(right))
    return features[:, top:bottom, left:end]


def _product(features: tf.Tensor, matrix: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """[batch, height, width, n] times [n, m] (or the transpose of [m, n]) -> [batch, height, width, m]."""
    inner, outer = reversed(matrix.shape) if transpose_b else matrix.shape
    flat = tf.matmul(tf.reshape(features, [-1, inner]), matrix, transpose_b=transpose_b)
    return tf.reshape(flat, [*_sizes(features)[:3], outer])


def _sum_of_shifted(
    features: tf.Tensor, taps: list[_Tap], contribution: Callable[[tf.Tensor, _Tap], tf.Tensor]
) -> tf.Tensor:
    """The sum over taps: each one's result for the pixels that it reads, at the places of the outputs."""
    _, height, width, _ = _sizes(features)
    parts = []
    for tap in taps:
        part = contribution(_window(features, tap.down, tap.right), tap)
        if tap.down or tap.right:
            _, rows, columns, _ = _sizes(part)
            top = _at_least_0(height - rows) if tap.down < 0 else 0
            left = _at_least_0(width - columns) if tap.right < 0 else 0
            part = tf.pad(part, [[0, 0], [top, height - rows - top], [left, width - columns - left], [0, 0]])
            part.set_shape([*features.shape[:3], part.shape[-1]])
        parts.append(part)
    return tf.add_n(parts) if len(parts) > 1 else parts[0]


def _kernel_gradient(inputs: tf.Tensor, by_outputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """For each tap, the product of the inputs it read and the gradients of the outputs it contributed to."""
    *_, channels, filters = kernel.shape

    def product(tap: _Tap) -> tf.Tensor:
        read = tf.reshape(_window(inputs, tap.down, tap.right), [-1, channels])
        added_to = tf.reshape(_window(by_outputs, -tap.down, -tap.right), [-1, filters])
        return tf.matmul(read, added_to, transpose_a=True)

    return _for_each_place(kernel, _taps_inside(inputs, kernel, rates), product)


def _for_each_place(kernel: tf.Tensor, taps: list[_Tap], gradient: Callable[[_Tap], tf.Tensor]) -> tf.Tensor:
    """The gradient with respect to the kernel, from that of each tap; 0 where a tap reads only padding."""
    height, width, channels, filters = kernel.shape
    shape = [channels, filters]
    places = [tf.zeros(shape, kernel.dtype)] * (height * width)
    for tap in taps:
        places[tap.place] = tf.reshape(gradient(tap), shape)
    return tf.reshape(tf.stack(places), kernel.shape)


def _sizes(features: tf.Tensor) -> list[int | tf.Tensor]:
    """The size of each dimension: a number where it is known when a function is traced, which saves operations."""
    if features.shape.is_fully_defined():
        return features.shape.as_list()
    dynamic = tf.unstack(tf.shape(features))
    return [dynamic[axis] if size is None else size for axis, size in enumerate(features.shape)]


def _at_least_0(length: int | tf.Tensor) -> int | tf.Tensor:
    return tf.maximum(length, 0) if tf.is_tensor(length) else max(length, 0)
