"""Convolutions tap by tap against Keras's own and against differences in float64, on whichever processor this is."""

import collections
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.grappler import tf_optimizer

from deeplab.model import cpu_convolution
from deeplab.model.convolution import AtrousConv2D, AtrousDepthwiseConv2D

KERNELS = [(1, 1), (3, 2), (3, 6), (3, 12), (3, 18), ((5, 3), (2, 4)), (3, 1)]


def _outputs_and_gradients(layer, inputs, signature=None):
    """Outputs, and the gradients of the sum of their squares by inputs and kernel."""

    @tf.function(input_signature=signature)
    def compute(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            value = tf.reduce_sum(outputs**2)
        return outputs, *tape.gradient(value, [inputs, layer.kernel.value])

    return [result.numpy() for result in compute(inputs)]


@pytest.mark.parametrize("size", [(13, 11), (2, 3), (1, 20)])
@pytest.mark.parametrize(("kernel_size", "rate"), KERNELS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(AtrousConv2D, keras.layers.Conv2D), (AtrousDepthwiseConv2D, keras.layers.DepthwiseConv2D)],
    ids=["full", "depthwise"],
)
def test_equals_kerass(ours, theirs, kernel_size, rate, size):
    """Also where taps fall only on padding, as at rate 12 for all but one column of 13, and for sizes known late."""
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(2, *size, 5)), tf.float32)
    settings = {"padding": "same", "dilation_rate": rate}
    filters = (7,) if ours is AtrousConv2D else ()
    layers = [kind(*filters, kernel_size, **settings) for kind in (ours, theirs)]
    for layer in layers:
        layer.build(inputs.shape)
    layers[0].bias.assign(rng.normal(size=layers[0].bias.shape))
    layers[1].set_weights(layers[0].get_weights())
    expected = _outputs_and_gradients(layers[1], inputs)
    any_size = [tf.TensorSpec([None, None, None, 5])]
    for signature in (None, any_size):
        for found, wanted in zip(_outputs_and_gradients(layers[0], inputs, signature), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("convolve", "kernel_shape"),
    [(cpu_convolution.atrous_conv2d, (3, 3, 3, 2)), (cpu_convolution.atrous_depthwise_conv2d, (3, 3, 3, 1))],
)
@pytest.mark.parametrize("rate", [1, 3, 8])
def test_gradients_are_those_of_differences_in_float64(convolve, kernel_shape, rate):
    rng = np.random.default_rng(1)
    inputs = tf.constant(rng.normal(size=(2, 7, 5, 3)))
    kernel = tf.constant(rng.normal(size=kernel_shape))
    by_formula, by_differences = tf.test.compute_gradient(
        lambda *arguments: convolve(*arguments, (rate, rate)), [inputs, kernel], delta=1e-5
    )
    for found, expected in zip(by_formula, by_differences, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_other_padding_is_left_to_tensorflow():
    inputs = tf.random.stateless_normal([2, 13, 11, 5], [0, 1])
    ours, theirs = (kind(7, 3, dilation_rate=3) for kind in (AtrousConv2D, keras.layers.Conv2D))
    ours.build(inputs.shape)
    theirs.build(inputs.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(inputs), theirs(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel_size", "rate", "expected"),
    [
        # Reads of kernel and bias, the product of matrices, and the bias.
        (1, 1, {"ReadVariableOp": 2, "MatMul": 1, "Reshape": 2, "Squeeze": 1, "BiasAdd": 1, "Shape": 1, "Pack": 1}),
        # 8 of 9 windows are cut and 8 products padded; there are sizes of 3 kinds of windows beside the whole.
        (3, 2, {"ReadVariableOp": 2, "MatMul": 9, "StridedSlice": 8 + 1, "Pad": 8, "Pack": 1, "Sub": 3, "Maximum": 3}),
    ],
)
def test_few_operations_are_traced_for_images_of_any_size(kernel_size, rate, expected):
    """Their number decides how long a program's first image takes."""
    layer = AtrousConv2D(7, kernel_size, padding="same", dilation_rate=rate)
    layer.build((None, None, None, 5))
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec([None, None, None, 5])).graph
    found = collections.Counter(operation.type for operation in graph.get_operations())
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("rate", [6, 12, 18])
def test_taps_on_padding_are_not_computed(rate):
    """On features of 6x6 only the middle of a kernel reads any: one product forward, one for each gradient."""

    @tf.function
    def step(inputs, kernel):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = cpu_convolution.atrous_conv2d(inputs, kernel, (rate, rate))
        return tape.gradient(outputs, [inputs, kernel])

    shapes = tf.TensorSpec([2, 6, 6, 4]), tf.TensorSpec([3, 3, 4, 5])
    operations = step.get_concrete_function(*shapes).graph.get_operations()
    assert [operation.type for operation in operations].count("MatMul") == 3


@pytest.mark.parametrize(
    ("convolve", "kernel_shape"),
    [(cpu_convolution.atrous_conv2d, (3, 3, 4, 5)), (cpu_convolution.atrous_depthwise_conv2d, (3, 3, 4, 1))],
)
def test_windows_of_the_forward_pass_are_not_kept_for_the_gradient(convolve, kernel_shape):
    """TensorFlow's optimizers merge equal operations; each of the 8 windows beside the center has to be cut twice.

    Each waits for the product before it, by the constant that says where it begins.
    """

    @tf.function
    def step(inputs, kernel):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = convolve(inputs, kernel, (3, 3)) ** 2
        return outputs, tape.gradient(outputs, kernel)

    graph = step.get_concrete_function(tf.TensorSpec([2, 9, 8, 4]), tf.TensorSpec(kernel_shape)).graph
    whole = meta_graph_pb2.MetaGraphDef(graph_def=graph.as_graph_def())
    whole.collection_def["train_op"].node_list.value.extend(output.name for output in graph.outputs)
    optimized = tf_optimizer.OptimizeGraph(config_pb2.ConfigProto(), whole)
    windows = [node for node in optimized.node if node.op == "StridedSlice" and node.input[0] == "inputs"]
    assert len(windows) == 2 * 8
    inputs_of = {node.name: node.input for node in optimized.node}
    assert len({tuple(inputs_of[first]) for _, first, *_ in (node.input for node in windows)}) == 2 * 8


HALVES = """
import sys
import numpy as np
import tensorflow as tf
from deeplab.model import convolution
for dtype in (tf.bfloat16, tf.float16):
    layer = convolution.AtrousConv2D(4, 3, padding="same", dilation_rate=2, dtype=dtype.name)
    inputs = tf.cast(tf.random.stateless_normal([2, 9, 8, 6], [0, 1]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    gradients = tape.gradient(outputs, [inputs, layer.kernel.value])
    exact = [tf.cast(value, tf.float32) for value in (inputs, layer.kernel.value)]
    with tf.GradientTape() as tape:
        tape.watch(exact)
        expected = tf.nn.convolution(*exact, padding="SAME", dilations=2)
    for ours, theirs in zip([outputs, *gradients], [expected, *tape.gradient(expected, exact)], strict=True):
        ours, theirs = (tf.cast(value, tf.float32).numpy() for value in (ours, theirs))
        print(dtype.name, np.abs(ours - theirs).max() / np.abs(theirs).max())
"""


@pytest.mark.parametrize(
    "environment",
    [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}],
    ids=["default", "without oneDNN", "AVX2", "SSE41"],
)
def test_half_precisions_equal_float32_up_to_their_digits(environment):
    """Whatever kernels for them the processor has."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment
    done = subprocess.run([sys.executable, "-c", HALVES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in errors] == ["bfloat16"] * 3 + ["float16"] * 3
    for name, error in errors:
        assert float(error) < {"bfloat16": 2**-7, "float16": 2**-10}[name]
