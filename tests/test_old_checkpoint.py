"""Runs of earlier versions continue exactly.

Biases in front of batch normalisation, as ResNets had them, are folded into the moving means.

`golden/checkpoint_3a48a9e` was written by that commit after three steps of the network below, with counters set by
hand; `expected.npz` holds all variables at that point, and after three more steps of that commit.
"""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.errors import DeepLabError
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.normalization import BatchNormalization
from deeplab.run import checkpoints_of_0_1
from deeplab.run.checkpoints import Checkpoints
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

GOLDEN = Path(__file__).parent / "golden" / "checkpoint_3a48a9e"
K = 3
COUNTERS = {
    "step": 3,
    "examples": 12,
    "num_replicas": 2,
    "evaluated_step": 2,
    "best_mean_iou": 0.25,
    "evaluations_since_best": 4,
    "evaluations_since_plateau": 1,
}


def _training_model():
    """Its dropout has a random state, but a rate too low to have an effect."""
    images = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.Rescaling(1 / 255)(images)
    features = AtrousConv2D(8, 3, padding="same", dilation_rate=2, use_bias=False)(features)
    features = keras.layers.BatchNormalization(synchronized=True)(features)
    features = keras.layers.ReLU()(features)
    features = keras.layers.Dropout(1e-12)(features)
    outputs = [AtrousConv2D(K, 1, dtype="float32")(features) for _ in range(2)]
    return keras.Model(images, outputs)


def _later_batches():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4, 12, 12, 3)).astype(np.uint8) for _ in range(6)]
    images = np.concatenate(images[3:])
    return tf.data.Dataset.from_tensor_slices({"image": images, "label": images[..., 0] // 86}).batch(4)


@pytest.fixture
def resumed(tmp_path):
    keras.backend.clear_session()
    keras.utils.set_random_seed(99)
    training_model = _training_model()
    schedule = Schedule(ScheduleSettings("polynomial", 1), 0.5, 6, tf.Variable(1.0, trainable=False))
    settings = OptimizerSettings(momentum=0.9, weight_decay=1e-2, ema_momentum=0.9)
    optimizer = make_optimizer(settings, schedule, training_model.trainable_variables, loss_scaling=False)
    model = keras.Model(training_model.input, training_model.outputs[0])
    state = TrainState(model, training_model, optimizer, schedule)
    (tmp_path / "latest").mkdir()
    for path in GOLDEN.glob("ckpt-3.*"):
        shutil.copy(path, tmp_path / "latest")
    assert Checkpoints(tmp_path, tmp_path / "saved", state).restore_latest() is not None
    return state


def _assert_variables(state, when, rtol):
    with np.load(GOLDEN / "expected.npz") as expected:
        variables = [*state.training_model.variables, *state.optimizer.variables]
        names = {name for name in expected if name.startswith(f"{when}/")}
        assert {f"{when}/{variable.path}" for variable in variables} == names
        for variable in variables:
            wanted = expected[f"{when}/{variable.path}"]
            scale = max(np.abs(wanted).max(), 1e-3)
            np.testing.assert_allclose(variable.numpy() / scale, wanted / scale, atol=rtol, err_msg=variable.path)


def test_it_restores_bit_for_bit(resumed):
    _assert_variables(resumed, "at", rtol=0)
    assert {name: float(getattr(resumed, name)) for name in COUNTERS} == COUNTERS
    assert float(resumed.schedule.scale) == 0.5


def test_training_continues_as_it_did_then(resumed):
    loss = Loss(K, LossSettings("cross_entropy_dice", auxiliary_weight=0.4), (1.0, 2.0, 0.5))
    train_step = make_train_step(tf.distribute.get_strategy(), resumed, loss, weight_decay=1e-2)
    totals = train_step(iter(_later_batches()), tf.constant(3))
    with np.load(GOLDEN / "expected.npz") as expected:
        assert float(totals.losses["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    _assert_variables(resumed, "after", rtol=2e-5)


def _resnet(biased):
    """Two convolutions with Keras's names, and a classifier, whose bias stays."""
    keras.backend.clear_session()
    images = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.Rescaling(1 / 255)(images)
    for name in ("conv1", "conv2_block1_0"):
        features = AtrousConv2D(4, 3, padding="same", use_bias=biased, name=f"{name}_conv")(features)
        features = BatchNormalization(name=f"{name}_bn")(features)
        features = keras.layers.ReLU()(features)
    return keras.Model(images, AtrousConv2D(K, 1, dtype="float32", name="logits")(features))


def _state(model, optimizer_name, ema_momentum, loss_scaling):
    schedule = Schedule(ScheduleSettings("polynomial", 1), 0.02, 9, tf.Variable(1.0, trainable=False))
    settings = OptimizerSettings(optimizer_name, weight_decay=1e-2, ema_momentum=ema_momentum)
    optimizer = make_optimizer(settings, schedule, model.trainable_variables, loss_scaling)
    return TrainState(model, model, optimizer, schedule)


def _train(state):
    train_step = make_train_step(tf.distribute.get_strategy(), state, Loss(K), weight_decay=1e-2)
    return float(train_step(iter(_later_batches()), tf.constant(3)).losses["loss"])


def _by_path(state):
    return {variable.path: variable.numpy() for variable in [*state.model.variables, *state.optimizer.variables]}


@pytest.mark.parametrize(
    "optimizer", [("sgd", 0.9, False), ("sgd", 0.0, True), ("adamw", 0.9, False)], ids=["ema", "loss scaling", "adamw"]
)
def test_biases_before_batch_normalization_are_folded(tmp_path, optimizer):
    keras.utils.set_random_seed(5)
    old = _state(_resnet(biased=True), *optimizer)
    _train(old)
    rng = np.random.default_rng(0)
    for variable in old.model.variables:
        if variable.path.endswith("_conv/bias"):
            variable.assign(rng.normal(0.0, 0.5, variable.shape))
        elif variable.path.endswith("moving_mean"):
            variable.assign(rng.normal(0.0, 0.2, variable.shape))
    Checkpoints(tmp_path, tmp_path, old).save_latest()
    before = _by_path(old)
    images = next(iter(_later_batches()))["image"]
    logits = old.model(images, training=False).numpy()
    new = _state(_resnet(biased=False), *optimizer)
    assert Checkpoints(tmp_path, tmp_path / "saved", new).restore_latest() is not None
    restored = _by_path(new)
    gone = {path for path in before if "conv_bias" in path or path.endswith("conv/bias")}
    assert len(gone) == 2 * {"ema": 3, "loss scaling": 2, "adamw": 4}[_id(optimizer)]
    assert restored.keys() == before.keys() - gone
    for path, value in restored.items():
        bias = before[path.replace("_bn/moving_mean", "_conv/bias")] if path.endswith("moving_mean") else 0
        np.testing.assert_array_equal(value, before[path] - bias, err_msg=path)
    np.testing.assert_allclose(new.model(images, training=False), logits, atol=1e-5)

    assert _train(new) == pytest.approx(_train(old), rel=1e-5)
    after, expected = _by_path(new), _by_path(old)
    for path in after.keys() - {path for path in after if path.endswith("moving_mean")}:
        np.testing.assert_allclose(after[path], expected[path], atol=1e-4 * max(1, np.abs(expected[path]).max()))
    np.testing.assert_allclose(new.model(images, training=False), old.model(images, training=False), atol=1e-3)


def _id(optimizer):
    name, _, loss_scaling = optimizer
    return "loss scaling" if loss_scaling else "ema" if name == "sgd" else name


def test_a_copy_that_cannot_be_written_ends_in_one_line(tmp_path, monkeypatch):
    keras.utils.set_random_seed(5)
    old = _state(_resnet(biased=True), "sgd", 0.0, False)
    Checkpoints(tmp_path, tmp_path, old).save_latest()

    def fail(path, tensors):
        raise tf.errors.ResourceExhaustedError(None, None, "no space left\nmore")

    monkeypatch.setattr(checkpoints_of_0_1, "_write", fail)
    new = Checkpoints(tmp_path, tmp_path / "saved", _state(_resnet(biased=False), "sgd", 0.0, False))
    with pytest.raises(DeepLabError, match=r"ckpt-0 in the current form could be written \(no space left\); TMPDIR"):
        new.restore_latest()
