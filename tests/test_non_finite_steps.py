"""Losses and gradients that are not finite: steps are counted, and float16 skips their updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy
from small_step import BATCH, K, _batches, _dataset

from deeplab.model.normalization import BatchNormalization
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("float32")


def _one_convolution(strategy, learning_rate, loss_scaling):
    with strategy.scope():
        images = keras.Input((None, None, 3), dtype="float32")
        model = keras.Model(images, keras.layers.Conv2D(K, 1)(images))
        schedule = Schedule(ScheduleSettings("constant", 0), learning_rate, 10, tf.Variable(1.0, trainable=False))
        settings = OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0)
        optimizer = make_optimizer(settings, schedule, model.trainable_variables, loss_scaling=loss_scaling)
    return model, schedule, optimizer


@pytest.mark.parametrize("bad_half", [0, 1])
def test_non_finite_steps_are_counted_once(bad_half):
    strategy = make_strategy(2)
    model, schedule, optimizer = _one_convolution(strategy, learning_rate=0.0, loss_scaling=False)
    good = {"image": np.ones((4, 2, 2, 3), np.float32), "label": np.zeros((4, 2, 2), np.uint8)}
    bad = {name: value.copy() for name, value in good.items()}
    bad["image"][2 * bad_half] = np.inf
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K))
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([good, bad]))), tf.constant(2))
    assert totals.non_finite == 1


@pytest.mark.parametrize("bad_half", [0, 1])
def test_an_overflow_on_any_replica_skips_the_update_and_is_counted(bad_half):
    """Gradients beyond float16 with a finite loss halve the scale; weights and the optimizer's count are kept."""
    strategy = make_strategy(2)
    model, schedule, optimizer = _one_convolution(strategy, learning_rate=0.1, loss_scaling=True)
    scale = optimizer.dynamic_scale.numpy()
    before = [variable.numpy() for variable in model.variables]
    good = {"image": np.zeros((4, 2, 2, 3), np.float32), "label": np.zeros((4, 2, 2), np.uint8)}
    bad = {name: value.copy() for name, value in good.items()}
    bad["image"][2 * bad_half] = 1e36  # times the loss scale, it overflows float32 in the kernel's gradient
    model.layers[-1].kernel.assign(tf.zeros([1, 1, 3, K]))
    before[0] = model.layers[-1].kernel.numpy()
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K))
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([bad]))), tf.constant(1))
    assert (float(totals.skipped), float(totals.non_finite)) == (1, 0)
    assert optimizer.iterations.numpy() == 0
    assert optimizer.dynamic_scale.numpy() == scale / 2
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([good]))), tf.constant(1))
    assert (float(totals.skipped), optimizer.iterations.numpy()) == (0, 1)


@pytest.mark.parametrize("bad_image", [0, 3])
@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_an_overflow_in_the_forward_pass_of_one_replica_leaves_statistics_as_they_were(bad_image, accumulate_steps):
    """Activations beyond float16 on the first or the second replica: no update anywhere, and training continues."""
    keras.config.set_dtype_policy("mixed_float16")
    strategy = make_strategy(2)
    with strategy.scope():
        images = keras.Input((None, None, 3))
        features = keras.layers.Conv2D(4, 1, use_bias=False)(images)
        features = BatchNormalization(synchronized=True)(features)
        model = keras.Model(images, keras.layers.Conv2D(K, 1, dtype="float32")(features))
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.9, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=True,
        )
    good = {name: value[:BATCH] for name, value in _batches()[0].items()}
    good["image"] = good["image"].astype(np.float32) / 255
    bad = {name: value.copy() for name, value in good.items()}
    bad["image"][bad_image] = 1e9
    before = [variable.numpy() for variable in model.variables]
    train = make_train_step(
        strategy,
        TrainState(model, model, optimizer, schedule),
        Loss(K),
        StepSettings(accumulate_steps=accumulate_steps),
    )
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([bad]))), tf.constant(1))
    assert (float(totals.skipped), float(totals.non_finite), float(totals.losses["loss"])) == (1, 0, 0)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
        for each in strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(each, value)
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([good]))), tf.constant(1))
    assert (float(totals.skipped), float(totals.non_finite)) == (0, 0)
    assert all(np.isfinite(variable.numpy()).all() for variable in model.variables)
    assert any((variable.numpy() != value).any() for variable, value in zip(model.variables, before, strict=True))


def test_non_finite_at_the_smallest_loss_scale_fails():
    strategy = make_strategy(1)
    with strategy.scope():
        images = keras.Input((None, None, 3))
        model = keras.Model(images, keras.layers.Conv2D(K, 1)(images))
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=True,
        )
    bad = {"image": np.full((4, 2, 2, 3), np.inf, np.float32), "label": np.zeros((4, 2, 2), np.uint8)}
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K))
    scale = float(optimizer.dynamic_scale.numpy())
    count = int(np.log2(scale)) + 1  # from the initial scale down to 1
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([bad] * (count + 1)))), tf.constant(count))
    assert (float(totals.skipped), float(totals.non_finite)) == (count, 0)
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([bad]))), tf.constant(1))
    assert (float(totals.skipped), float(totals.non_finite)) == (0, 1)
