"""The fused form of batch normalisation against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy, skip_without_kernels

from deeplab.model.normalization import BatchNormalization

SHAPE = (3, 5, 4, 6)


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


def apply(layer, inputs, slopes, training):
    """Outputs, gradients with respect to inputs, scale and offset, and the moving statistics afterwards."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        objective = tf.reduce_sum(tf.cast(outputs, tf.float32) * slopes)
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    moving = [variable.numpy() for variable in (layer.moving_mean, layer.moving_variance)]
    return [outputs, *tape.gradient(objective, sources), *moving]


@pytest.fixture
def inputs():
    return tf.random.stateless_normal(SHAPE, [0, 1], mean=3.0, stddev=2.0)


@pytest.fixture
def slopes():
    return tf.random.stateless_normal(SHAPE, [0, 2])


@pytest.mark.parametrize("training", [True, False])
def test_it_is_kerass(inputs, slopes, training):
    plain, fused = (apply(layer, inputs, slopes, training) for layer in make_pair())
    for expected, result in zip(plain, fused, strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("mixed_bfloat16", 0.04), ("mixed_float16", 0.005)])
def test_half_precision_keeps_statistics_in_float32(inputs, slopes, dtype, tolerance):
    skip_without_kernels(keras.DTypePolicy(dtype).compute_dtype)
    halves = tf.cast(inputs, keras.DTypePolicy(dtype).compute_dtype)
    plain, fused = (apply(layer, halves, slopes, training=True) for layer in make_pair(dtype))
    assert fused[0].dtype == halves.dtype
    for expected, result in zip(plain[:-2], fused[:-2], strict=True):
        expected = tf.cast(expected, tf.float32).numpy()
        np.testing.assert_allclose(tf.cast(result, tf.float32), expected, atol=tolerance * np.abs(expected).max())
    for expected, result in zip(plain[-2:], fused[-2:], strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_frozen_layers_use_and_keep_their_statistics_in_training(inputs, slopes):
    pair = make_pair()
    for layer in pair:
        layer.trainable = False
    plain, fused = (apply(layer, inputs, slopes, training=True)[:2] for layer in pair)
    for expected, result in zip(plain, fused, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_array_equal(pair[0].moving_mean, pair[1].moving_mean)


def test_a_single_value_has_variance_zero_where_the_kernel_gives_nan(monkeypatch):
    """As cuDNN does for the image pooling of one image; NaN x 0 would stay in the moving variance for good."""
    kernel = tf.raw_ops.FusedBatchNormV3

    def cudnn(**arguments):
        results = kernel(**arguments)
        return results._replace(batch_variance=tf.fill(results.batch_variance.shape, np.nan))

    monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", cudnn)
    plain, fused = make_pair()
    inputs = tf.random.stateless_normal([1, 1, 1, SHAPE[-1]], [0, 1])
    for layer in (plain, fused):
        layer(inputs, training=True)
    np.testing.assert_allclose(fused.moving_variance, plain.moving_variance, rtol=1e-6)
    np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, rtol=1e-6)


def test_two_replicas_are_one(inputs):
    """Each normalises its part with the statistics of the whole, which are those of the fused form."""
    inputs = tf.concat([inputs, inputs * inputs], 0)
    _, alone = make_pair()
    expected = alone(inputs, training=True)
    strategy = make_strategy(2)
    with strategy.scope():
        _, layer = make_pair()
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: inputs[3 * context.replica_id_in_sync_group :][:3]
    )
    outputs = strategy.run(tf.function(lambda part: layer(part, training=True)), args=(parts,))
    result = tf.concat(strategy.experimental_local_results(outputs), 0)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), alone.moving_variance.numpy(), rtol=1e-5)
