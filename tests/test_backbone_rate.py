"""The backbone at a learning rate of its own: `--backbone_learning_rate_factor`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.model.deeplabv3 import backbone_of, build_to_train
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

K = 3
RATE = 0.01


def _batch(size=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    return {"image": images, "label": (images[..., 0] // 86).astype(np.uint8)}


def _network():
    """A backbone as a network of its own, with batch normalization, and a classifier; the same weights each time."""
    keras.backend.clear_session()  # the same layer names each time
    keras.utils.set_random_seed(3)
    inner = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inner)
    features = keras.layers.BatchNormalization()(features)
    images = keras.Input((None, None, 3), dtype="uint8")
    hidden = keras.Model(inner, features, name="backbone")(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Conv2D(K, 1)(keras.layers.ReLU()(hidden)))


def _changes(optimizer_name, factor, steps=2):
    """What the steps change: (variables of the backbone, all others), each as path -> difference."""
    model = _network()
    schedule = Schedule(ScheduleSettings("constant"), RATE, 10, tf.Variable(1.0, trainable=False))
    settings = OptimizerSettings(optimizer_name, weight_decay=0.1, backbone_learning_rate_factor=factor)
    of_backbone = backbone_of(model).trainable_variables
    optimizer = make_optimizer(settings, schedule, model.trainable_variables, False, of_backbone)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    state = TrainState(model, model, optimizer, schedule)
    train = make_train_step(tf.distribute.get_strategy(), state, Loss(K), weight_decay=settings.l2)
    train(iter(tf.data.Dataset.from_tensors(_batch()).repeat()), tf.constant(steps))
    changes = {variable.path: variable.numpy() - before[variable.path] for variable in model.trainable_variables}
    backbone = {variable.path for variable in of_backbone}
    return {path: change for path, change in changes.items() if path in backbone}, {
        path: change for path, change in changes.items() if path not in backbone
    }


@pytest.mark.parametrize("optimizer_name", ["sgd", "adam", "adamw"])
def test_one_update_of_the_backbone_is_multiplied_and_the_heads_is_not(optimizer_name):
    backbone, head = _changes(optimizer_name, factor=1.0, steps=1)
    slow_backbone, same_head = _changes(optimizer_name, factor=0.25, steps=1)
    assert backbone and head
    for path, change in backbone.items():
        assert np.abs(change).max() > 1e-5
        np.testing.assert_allclose(slow_backbone[path], 0.25 * change, rtol=1e-3, atol=3e-8)
    for path, change in head.items():
        np.testing.assert_array_equal(same_head[path], change)


def test_adamws_decay_of_the_backbone_is_multiplied_once():
    """By hand: with gradients of 0 only the decay changes a kernel, to (1 - rate x factor x decay) of it a step."""
    kernel = keras.Variable(np.full((1, 1, 2, 2), 2.0, np.float32), name="kernel")
    other = keras.Variable(np.full((1, 1, 2, 2), 2.0, np.float32), name="kernel")
    schedule = Schedule(ScheduleSettings("constant"), RATE, 10, tf.Variable(1.0, trainable=False))
    settings = OptimizerSettings("adamw", weight_decay=0.5, backbone_learning_rate_factor=0.1)
    optimizer = make_optimizer(settings, schedule, [kernel, other], False, [kernel])
    for _ in range(3):
        optimizer.apply([tf.zeros(kernel.shape), tf.zeros(other.shape)], [kernel, other])
    np.testing.assert_allclose(kernel.numpy(), 2 * (1 - RATE * 0.1 * 0.5) ** 3, rtol=1e-6)
    np.testing.assert_allclose(other.numpy(), 2 * (1 - RATE * 0.5) ** 3, rtol=1e-6)


def test_a_frozen_backbone_keeps_weights_and_statistics_and_has_no_slots():
    init = InitSettings("none")
    config = ModelConfig(("a", "b", "c"), "mobilenet_v2")
    model, training_model = build_to_train(config, init, has_weights=False, auxiliary_head=False, frozen_backbone=True)
    assert not backbone_of(training_model).trainable_variables
    head = training_model.trainable_variables
    assert {variable.path.split("/")[0] for variable in head} >= {"logits"}
    before = [variable.numpy() for variable in backbone_of(training_model).variables]

    schedule = Schedule(ScheduleSettings("constant"), RATE, 10, tf.Variable(1.0, trainable=False))
    optimizer = make_optimizer(OptimizerSettings(backbone_learning_rate_factor=0.0), schedule, head, False)
    assert sum(variable.path.endswith("momentum") for variable in optimizer.variables) == len(head)
    state = TrainState(model, training_model, optimizer, schedule)
    train = make_train_step(tf.distribute.get_strategy(), state, Loss(K))
    logits = training_model.get_layer("logits").kernel
    classifier_before = logits.numpy()
    train(iter(tf.data.Dataset.from_tensors(_batch(33)).repeat()), tf.constant(2))

    assert np.abs(logits.numpy() - classifier_before).max() > 0
    for variable, value in zip(backbone_of(training_model).variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
