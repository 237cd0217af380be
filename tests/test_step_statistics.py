"""Moving statistics of batch normalization after a step, against NumPy: on replicas and in micro-batches."""

import keras
import numpy as np
import pytest
from small_step import _batches, _train, small_model


@pytest.mark.parametrize("loss_name", ["cross_entropy", "cross_entropy_dice"])
def test_forward_passes_before_the_gradient_leave_no_trace(loss_name):
    """The moving mean after a step in two micro-batches, against NumPy: each counts once, one after another."""
    batch = _batches()[0]
    step_options = {"accumulate_steps": 2}
    weights, _ = _train(2, loss_name, calls=(1,), step_options=step_options)
    path = next(path for path in weights if path.endswith("batch_normalization/moving_mean"))
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = small_model()
    features = model.layers[2](model.layers[1](batch["image"])).numpy()
    expected = np.zeros(8)
    for images in (features[[0, 2]], features[[1, 3]]):  # the first images of both replicas, then the second ones
        expected = 0.99 * expected + 0.01 * images.mean((0, 1, 2))
    np.testing.assert_allclose(weights[path], expected, rtol=1e-4, atol=1e-7)


def test_moving_statistics_follow_the_global_batch():
    """The first layer's moving variance after one step, on two replicas, against NumPy."""
    batch = _batches()[0]
    weights, _ = _train(2, calls=(1,))
    path = next(path for path in weights if path.endswith("batch_normalization/moving_mean"))
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = small_model()
    features = model.layers[2](model.layers[1](batch["image"])).numpy()
    np.testing.assert_allclose(weights[path], 0.01 * features.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)
    variance = path.replace("moving_mean", "moving_variance")
    np.testing.assert_allclose(weights[variance], 0.99 + 0.01 * features.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("step_options", [{}, {"accumulate_steps": 2}])
def test_without_synchronisation_moving_statistics_are_the_mean_over_replicas(step_options):
    """... against NumPy, and one replica does not care; `train_small` checks that they are the same on all."""
    batch = _batches()[0]
    weights, _ = _train(2, synchronized=False, calls=(1,), step_options=step_options)
    path = next(path for path in weights if path.endswith("batch_normalization/moving_mean"))
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = small_model()
    features = model.layers[2](model.layers[1](batch["image"])).numpy()
    per_replica = 2 // step_options.get("accumulate_steps", 1)
    mean, variance = np.zeros(8), np.ones(8)
    for first in range(0, 2, per_replica):
        parts = [features[start + first :][:per_replica] for start in (0, 2)]
        mean = 0.99 * mean + 0.01 * np.mean([part.mean((0, 1, 2)) for part in parts], 0)
        variance = 0.99 * variance + 0.01 * np.mean([part.var((0, 1, 2)) for part in parts], 0)
    np.testing.assert_allclose(weights[path], mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(weights[path.replace("moving_mean", "moving_variance")], variance, rtol=1e-5)


def test_synchronisation_makes_no_difference_to_one_replica():
    weights, other_weights = _train(1)[0], _train(1, synchronized=False)[0]
    for path, value in weights.items():
        np.testing.assert_array_equal(other_weights[path], value)
