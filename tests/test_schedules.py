"""Learning rates against their formulas; the variables that decay."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings


@pytest.mark.parametrize("name", ["constant", "polynomial", "cosine"])
def test_learning_rate_equals_the_formula(name):
    schedule = Schedule(ScheduleSettings(name, 10), 0.5, train_steps=110, scale=tf.Variable(1.0))
    decay = {
        "constant": lambda t: 1.0,
        "polynomial": lambda t: (1 - t) ** 0.9,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    }[name]
    for step in (0, 3, 9, 10, 11, 60, 109):
        expected = 0.5 * (step + 1) / 10 if step < 10 else 0.5 * decay((step - 10) / 100)
        assert float(schedule(tf.constant(step))) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_scale_lowers_the_optimizers_learning_rate():
    scale = tf.Variable(1.0)
    weight = keras.Variable(1.0, name="kernel")
    schedule = Schedule(ScheduleSettings("constant"), 0.1, 10, scale)
    optimizer = make_optimizer(OptimizerSettings("sgd", momentum=0.0), schedule, [weight], loss_scaling=False)
    optimizer.apply([tf.constant(1.0)], [weight])
    scale.assign(0.5)
    optimizer.apply([tf.constant(1.0)], [weight])
    assert float(weight) == pytest.approx(1 - 0.1 - 0.05)


def test_momentum_by_one_kernel_equals_keras_and_float64():
    """... while the learning rate falls; some processors round a product and a sum once, not twice."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(16, 7)).astype(np.float32)
    kernel, of_keras = keras.Variable(start, name="kernel"), keras.Variable(start, name="kernel")
    schedule = Schedule(ScheduleSettings("polynomial"), 0.1, 20, tf.Variable(1.0))
    optimizer = make_optimizer(OptimizerSettings("sgd", momentum=0.9), schedule, [kernel], loss_scaling=False)
    keras_optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    keras_optimizer.build([of_keras])
    expected, slot = start.astype(np.float64), 0.0
    for step in range(20):
        gradient = rng.normal(size=start.shape).astype(np.float32)
        optimizer.apply([tf.constant(gradient)], [kernel])
        keras_optimizer.apply([tf.constant(gradient)], [of_keras])
        slot = 0.9 * slot - 0.1 * (1 - step / 20) ** 0.9 * gradient.astype(np.float64)
        expected = expected + slot
    np.testing.assert_allclose(kernel, of_keras, rtol=0, atol=2e-6)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=5e-6)
    assert [v.path.split("/")[1:] for v in optimizer.variables] == [
        v.path.split("/")[1:] for v in keras_optimizer.variables
    ]


def test_adamw_decays_only_kernels():
    kernel, gamma = keras.Variable(np.ones(2), name="kernel"), keras.Variable(np.ones(2), name="gamma")
    schedule = Schedule(ScheduleSettings("constant"), 0.1, 10, tf.Variable(1.0))
    optimizer = make_optimizer(
        OptimizerSettings("adamw", weight_decay=0.5), schedule, [kernel, gamma], loss_scaling=False
    )
    optimizer.apply([tf.zeros(2), tf.zeros(2)], [kernel, gamma])
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(gamma, 1.0)
