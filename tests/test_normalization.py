"""The fused form of batch normalisation against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy, skip_without_kernels

from deeplab.model.normalization import BatchNormalization

SHAPE = (3, 5, 4, 6)
CHANNELS = 16
MOMENTUM, EPSILON = 0.9, 1e-3


def make_pair(dtype="float32"):
    """Keras's layer and ours, with the same drawn variables."""
    layers = [
        kind(synchronized=True, momentum=0.9, epsilon=1e-3, dtype=dtype)
        for kind in (keras.layers.BatchNormalization, BatchNormalization)
    ]
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 2, SHAPE[-1]) for _ in range(4)]
    for layer in layers:
        layer.build(SHAPE)
        layer.set_weights(values)
    return layers


def apply(layer, inputs, output_gradients, training):
    """Outputs, gradients with respect to inputs, scale and offset, and the moving statistics afterwards."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        objective = tf.reduce_sum(tf.cast(outputs, tf.float32) * output_gradients)
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    moving = [variable.numpy() for variable in (layer.moving_mean, layer.moving_variance)]
    return [outputs, *tape.gradient(objective, sources), *moving]


@pytest.fixture
def inputs():
    return tf.random.stateless_normal(SHAPE, [0, 1], mean=3.0, stddev=2.0)


@pytest.fixture
def output_gradients():
    return tf.random.stateless_normal(SHAPE, [0, 2])


@pytest.mark.parametrize("training", [True, False])
def test_it_is_kerass(inputs, output_gradients, training):
    plain, fused = (apply(layer, inputs, output_gradients, training) for layer in make_pair())
    for expected, result in zip(plain, fused, strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("mixed_bfloat16", 0.04), ("mixed_float16", 0.005)])
def test_half_precision_keeps_statistics_in_float32(inputs, output_gradients, dtype, tolerance):
    skip_without_kernels(keras.DTypePolicy(dtype).compute_dtype)
    halves = tf.cast(inputs, keras.DTypePolicy(dtype).compute_dtype)
    plain, fused = (apply(layer, halves, output_gradients, training=True) for layer in make_pair(dtype))
    assert fused[0].dtype == halves.dtype
    for expected, result in zip(plain[:-2], fused[:-2], strict=True):
        expected = tf.cast(expected, tf.float32).numpy()
        np.testing.assert_allclose(tf.cast(result, tf.float32), expected, atol=tolerance * np.abs(expected).max())
    for expected, result in zip(plain[-2:], fused[-2:], strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def make_layer(dtype, start, synchronized=True, num_channels=CHANNELS):
    layer = BatchNormalization(synchronized=synchronized, momentum=MOMENTUM, epsilon=EPSILON, dtype=dtype)
    layer.build((None, None, None, num_channels))
    layer.set_weights(start)
    return layer


def reference(inputs, output_gradients, gamma, beta, moving_mean, moving_variance):
    """What `on_replicas` returns, in float64 from the whole batch."""
    inputs, output_gradients = inputs.astype(np.float64), output_gradients.astype(np.float64)
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
    normal = (inputs - mean) / np.sqrt(variance + EPSILON)
    by_beta, by_gamma = output_gradients.sum((0, 1, 2)), (output_gradients * normal).sum((0, 1, 2))
    count = inputs[..., 0].size
    return {
        "outputs": gamma * normal + beta,
        "by inputs": gamma
        / np.sqrt(variance + EPSILON)
        * (output_gradients - by_beta / count - normal * by_gamma / count),
        "by gamma": by_gamma,
        "by beta": by_beta,
        "moving mean": MOMENTUM * moving_mean + (1 - MOMENTUM) * mean,
        "moving variance": MOMENTUM * moving_variance + (1 - MOMENTUM) * variance,
    }


def on_replicas(strategy, layer, inputs, output_gradients, known_shape=True):
    """Results of a training step, each replica with its part of the batch; gradients by variables are summed."""

    def replica_step(inputs, output_gradients):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            hidden = (
                inputs if known_shape else tf.compat.v1.placeholder_with_default(inputs, [None, None, None, CHANNELS])
            )
            outputs = layer(hidden, training=True)
        sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
        return outputs, *tape.gradient(outputs, sources, output_gradients=output_gradients)

    @tf.function
    def step(inputs, output_gradients):
        return strategy.run(replica_step, args=(inputs, output_gradients))

    def parts(value):
        parts = tf.split(value, strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])

    per_replica = [strategy.experimental_local_results(value) for value in step(parts(inputs), parts(output_gradients))]
    per_replica = [[tf.cast(part, tf.float32).numpy() for part in each] for each in per_replica]
    results = {name: np.concatenate(each) for name, each in zip(("outputs", "by inputs"), per_replica, strict=False)}
    results |= {name: sum(each) for name, each in zip(("by gamma", "by beta"), per_replica[2:], strict=False)}
    for name, variable in {"moving mean": layer.moving_mean, "moving variance": layer.moving_variance}.items():
        of_each = strategy.experimental_local_results(variable.value)
        assert all(np.array_equal(each, of_each[0]) for each in of_each)
        results[name] = of_each[0].numpy()
    return results


def draw_batch(case, num_replicas, dtype, shape=(2, 9, 7, CHANNELS)):
    """Inputs and slopes in `dtype`, and variables to start from."""
    rng = np.random.default_rng(1)
    shape = {"one value": (1, 1, 1, CHANNELS), "pooled": (3, 1, 1, CHANNELS)}.get(case, shape)
    parts = []
    for replica in range(num_replicas):
        mean, deviation = {"large mean": (100.0, 1.0), "unequal": (3.0 * replica, 1.0 + 3 * replica)}.get(case, (1, 2))
        parts.append(rng.normal(mean, deviation, shape))
    inputs = tf.cast(np.concatenate(parts), dtype)
    output_gradients = tf.cast(rng.normal(size=inputs.shape), dtype)
    return inputs, output_gradients, [rng.uniform(0.5, 2, CHANNELS).astype(np.float32) for _ in range(4)]


def errors(results, expected):
    """The largest difference of each result, as a share of its largest value."""
    return {name: np.abs(results[name] - value).max() / np.abs(value).max() for name, value in expected.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("num_replicas", [2, 4])
@pytest.mark.parametrize("case", ["plain", "unequal", "large mean", "one value", "pooled"])
def test_replicas_share_statistics(case, num_replicas, precision):
    """... against NumPy, in float64 over the whole batch. The moving mean starts far from a large mean."""
    skip_without_kernels(precision)
    inputs, output_gradients, start = draw_batch(case, num_replicas, precision)
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        layer = make_layer("float32" if precision == "float32" else f"mixed_{precision}", start)
    results = on_replicas(strategy, layer, inputs, output_gradients)
    whole = [tf.cast(value, tf.float32).numpy() for value in (inputs, output_gradients)]
    found = errors(results, reference(*whole, *start))
    print(case, num_replicas, precision, {name: f"{error:.1e}" for name, error in found.items()})
    # Of a few values, most of the gradient cancels.
    exact = {"large mean": 5e-5, "one value": 5e-5, "pooled": 5e-6}.get(case, 1e-6)
    half = {"float32": exact, "bfloat16": 2**-8, "float16": 2**-11}[precision]
    assert found["outputs"] <= max(half, exact)
    assert found["by inputs"] <= (3 * half if precision != "float32" else half) + exact  # rounded three times
    assert max(found[name] for name in ("by gamma", "by beta")) <= exact
    assert max(found[name] for name in ("moving mean", "moving variance")) <= 1e-6


def test_large_means_would_cost_kerass_form_its_digits():
    """So that the case above tests something."""
    inputs, output_gradients, start = draw_batch("large mean", 2, "float32")
    strategy = make_strategy(2)
    with strategy.scope():
        layer = keras.layers.BatchNormalization(synchronized=True, momentum=MOMENTUM, epsilon=EPSILON)
        layer.build((None, None, None, CHANNELS))
        layer.set_weights(start)
    found = errors(
        on_replicas(strategy, layer, inputs, output_gradients),
        reference(inputs.numpy(), output_gradients.numpy(), *start),
    )
    assert found["outputs"] > 2e-4


def test_replicas_may_have_shapes_that_are_not_known_when_traced():
    inputs, output_gradients, start = draw_batch("unequal", 2, "float32")
    strategy = make_strategy(2)
    with strategy.scope():
        layer = make_layer("float32", start)
    results = on_replicas(strategy, layer, inputs, output_gradients, known_shape=False)
    found = errors(results, reference(inputs.numpy(), output_gradients.numpy(), *start))
    assert max(found.values()) < 1e-6


def test_frozen_layers_use_and_keep_their_statistics_in_training(inputs, output_gradients):
    pair = make_pair()
    for layer in pair:
        layer.trainable = False
    plain, fused = (apply(layer, inputs, output_gradients, training=True)[:2] for layer in pair)
    for expected, result in zip(plain, fused, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_array_equal(pair[0].moving_mean, pair[1].moving_mean)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_frozen_layers_are_one_kernel_each_way(precision):
    """... without sums, which would not be deterministic on GPUs; against NumPy in float64."""
    skip_without_kernels(precision)
    inputs, output_gradients, start = draw_batch("plain", 1, precision)
    layer = make_layer("float32" if precision == "float32" else f"mixed_{precision}", start)
    layer.trainable = False

    @tf.function
    def step(inputs, output_gradients):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return outputs, tape.gradient(outputs, inputs, output_gradients=output_gradients)

    outputs, by_inputs = (tf.cast(value, tf.float32).numpy() for value in step(inputs, output_gradients))
    gamma, beta, mean, variance = (value.astype(np.float64) for value in start)
    factor = gamma / np.sqrt(variance + EPSILON)
    inputs, output_gradients = (tf.cast(value, tf.float64).numpy() for value in (inputs, output_gradients))
    expected = {"outputs": (inputs - mean) * factor + beta, "by inputs": output_gradients * factor}
    found = errors({"outputs": outputs, "by inputs": by_inputs}, expected)
    assert max(found.values()) <= {"float32": 2e-7, "bfloat16": 2**-8, "float16": 2**-11}[precision]
    kinds = [
        operation.type
        for operation in step.get_concrete_function(
            *2 * [tf.zeros([2, 3, 3, CHANNELS], precision)]
        ).graph.get_operations()
    ]
    assert kinds.count("FusedBatchNormV3") == 2
    assert not {"FusedBatchNormGradV3", "Sum", "Mean"} & set(kinds)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_the_variance_of_a_single_value_is_0(num_replicas, monkeypatch):
    """cuDNN returns NaN for it; the CPU's kernel does not, so a stand-in does."""
    kernel = tf.raw_ops.FusedBatchNormV3

    def like_cudnn(**arguments):
        results = kernel(**arguments)
        if not arguments["is_training"]:
            return results
        return type(results)(*results[:2], results.batch_variance * np.nan, *results[3:])

    monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", like_cudnn)
    inputs, output_gradients, start = draw_batch("one value", num_replicas, "float32")
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        layer = make_layer("float32", start)
    for known_shape in (True, False):
        results = on_replicas(strategy, layer, inputs, output_gradients, known_shape)
        assert all(np.isfinite(value).all() for value in results.values())


def test_one_all_reduce_each_way():
    strategy = make_strategy(2)
    with strategy.scope():
        layer = make_layer("float32", draw_batch("plain", 2, "float32")[2])

    def replica_step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return tape.gradient(outputs, inputs)

    step = tf.function(lambda: strategy.run(lambda: replica_step(tf.ones([2, 3, 3, CHANNELS]))))
    kinds = [operation.type for operation in step.get_concrete_function().graph.get_operations()]
    assert kinds.count("CollectiveReduceV2") == 2 * 2


def test_without_synchronisation_each_replica_has_its_own_statistics():
    inputs, _, start = draw_batch("unequal", 2, "float32")
    strategy = make_strategy(2)
    with strategy.scope():
        layer = make_layer("float32", start, synchronized=False)
    step = tf.function(lambda inputs: strategy.run(lambda part: layer(part, training=True), args=(inputs,)))
    parts = tf.split(inputs, 2)
    of_each = step(strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group]))
    for part, outputs in zip(parts, strategy.experimental_local_results(of_each), strict=True):
        expected = reference(part.numpy(), part.numpy(), *start)["outputs"]
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
