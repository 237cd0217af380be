"""The compiled step: any number of replicas gives the result of one replica, which is that of NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy, skip_without_kernels
from small_step import BATCH, SIZE, STEPS, K, _batches, _dataset, _train, assert_equal, small_model

from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LOSSES, LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("float32")


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize("loss_name", LOSSES)
def test_replicas_equal_one_device(loss_name, optimizer_name):
    weights, totals = _train(1, loss_name, optimizer_name)
    for num_replicas in (2, 4):
        other_weights, other_totals = _train(num_replicas, loss_name, optimizer_name)
        # AdamW divides by the root of second moments, which are smallest for Dice: the rounding of sums shows.
        assert_equal(weights, other_weights, rtol=5e-5 if (loss_name, optimizer_name) == ("dice", "adamw") else 1e-5)
        assert other_totals.losses["loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)
        assert other_totals.steps == totals.steps == STEPS
        assert other_totals.confusion.sum() == totals.confusion.sum()
        # Rounding may turn a tie at single pixels.
        assert np.abs(other_totals.confusion - totals.confusion).sum() <= 4


@pytest.mark.parametrize(
    "options",
    [
        {"hard_pixel_fraction": 0.25, "label_smoothing": 0.1, "focal_gamma": 2.0},
        {"auxiliary_weight": 0.4, "ema_momentum": 0.5},
    ],
)
def test_replicas_equal_one_device_with_non_default_options(options):
    weights, totals = _train(1, **options)
    other_weights, other_totals = _train(2, **options)
    assert_equal(weights, other_weights, rtol=2e-5)
    assert other_totals.losses["loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)
    if "auxiliary_weight" in options:
        assert other_totals.losses["auxiliary"] == pytest.approx(totals.losses["auxiliary"], rel=1e-5)
        assert totals.losses["auxiliary"] != totals.losses["loss"]


def test_the_auxiliary_loss_counts_with_its_weight():
    """In one step of plain SGD, the shared kernels change as for main loss + 0.4 auxiliary loss."""
    batch = _batches()[0]
    keras.utils.set_random_seed(3)
    strategy = make_strategy(2)
    with strategy.scope():
        model = small_model(auxiliary_head=True)
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, STEPS, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=False,
        )
    copy = small_model(auxiliary_head=True)
    copy.set_weights(model.get_weights())
    loss = Loss(K, LossSettings(auxiliary_weight=0.4))
    with tf.GradientTape() as tape:
        values = [loss.parts(loss.sums(x, batch["label"]))["loss"] for x in copy(batch["image"], training=True)]
        objective = values[0] + 0.4 * values[1]
    gradients = tape.gradient(objective, copy.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), loss)
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([batch]))), tf.constant(1))
    assert float(totals.losses["loss"]) == pytest.approx(float(values[0]), rel=1e-5)
    assert float(totals.losses["auxiliary"]) == pytest.approx(float(values[1]), rel=1e-5)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose((old - variable.numpy()) / 0.1, gradient, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("accumulate_steps", [2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"loss_name": "cross_entropy"},
        {"loss_name": "cross_entropy_dice", "auxiliary_weight": 0.4},
        {"loss_name": "dice", "optimizer_name": "adamw"},
        {"loss_name": "cross_entropy", "hard_pixel_fraction": 0.3, "label_smoothing": 0.1},
        {"loss_name": "cross_entropy", "clip_norm": 0.05},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_micro_batches_make_the_update_of_the_whole_batch(options, accumulate_steps):
    """With frozen normalisation, for any loss; micro-batches have unequal numbers of pixels."""
    options = dict(options)
    clip_norm = options.pop("clip_norm", 0.0)
    weights, totals = _train(1, frozen=True, step_options={"clip_norm": clip_norm}, **options)
    num_replicas = 4 // accumulate_steps  # each micro-batch of a replica is one image
    step_options = {"clip_norm": clip_norm, "accumulate_steps": accumulate_steps}
    other_weights, other_totals = _train(num_replicas, frozen=True, step_options=step_options, **options)
    assert_equal(weights, other_weights, rtol=1e-4 if options.get("optimizer_name") else 1e-6)
    assert other_totals.losses["loss"] == pytest.approx(totals.losses["loss"], rel=1e-6)
    assert other_totals.steps == STEPS
    assert np.abs(other_totals.confusion - totals.confusion).sum() <= 4


def test_replicas_equal_one_device_with_clipping():
    step_options = {"clip_norm": 0.05}
    weights, _ = _train(1, step_options=step_options)
    unclipped, _ = _train(1)
    assert any(np.abs(weights[path] - unclipped[path]).max() > 1e-3 for path in weights)
    for num_replicas in (2, 4):
        other_weights, _ = _train(num_replicas, step_options=step_options)
        assert_equal(weights, other_weights, rtol=1e-5)


def test_a_clipped_update_by_hand():
    """For plain SGD without decay, the clipped step is the unclipped step, shortened to the norm."""
    batch = _batches()[0]
    steps = []
    for clip_norm in (0.0, 0.01):
        strategy = make_strategy(2)
        with strategy.scope():
            keras.utils.set_random_seed(3)
            model = small_model()
            before = [variable.numpy().astype(np.float64) for variable in model.trainable_variables]
            schedule = Schedule(ScheduleSettings("constant", 0), 1.0, STEPS, tf.Variable(1.0, trainable=False))
            optimizer = make_optimizer(
                OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0),
                schedule,
                model.trainable_variables,
                loss_scaling=False,
            )
        train = make_train_step(
            strategy, TrainState(model, model, optimizer, schedule), Loss(K), StepSettings(clip_norm=clip_norm)
        )
        train(iter(strategy.experimental_distribute_dataset(_dataset([batch]))), tf.constant(1))
        steps.append([b - v.numpy() for b, v in zip(before, model.trainable_variables, strict=True)])
    norm = np.sqrt(sum(np.sum(step**2) for step in steps[0]))
    assert norm > 0.1
    for whole, clipped in zip(*steps, strict=True):
        np.testing.assert_allclose(clipped, whole * 0.01 / norm, atol=1e-7)


def test_dropout_does_not_depend_on_the_number_of_replicas():
    """... but on the seed and the step: the mask is drawn for the global batch."""
    weights, totals = _train(1, dropout_rate=0.4)
    assert abs(totals.losses["loss"] - _train(1)[1].losses["loss"]) > 1e-2  # it does drop
    for num_replicas in (2, 4):
        other_weights, other_totals = _train(num_replicas, dropout_rate=0.4)
        assert_equal(weights, other_weights, rtol=2e-5)
        assert other_totals.losses["loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)


def test_moving_average_of_weights_by_hand():
    """After three steps with momentum 0.5: a quarter of the first, a quarter of the second, half of the third."""
    snapshots = [_train(2, calls=(1,) * count) for count in (1, 2, 3)]
    averaged, _ = _train(2, calls=(1, 1, 1), ema_momentum=0.5)
    paths = [path for path in averaged if path.endswith("averaged")]
    assert paths
    for path in paths:
        first, second, third = (weights[path.removesuffix(" averaged")] for weights, _ in snapshots)
        np.testing.assert_allclose(averaged[path], first / 4 + second / 4 + third / 2, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(averaged[path.removesuffix(" averaged")], third)


def test_the_comparison_would_notice_a_mean_of_replica_means():
    """The void in `_batches` is unequal enough to distinguish the global ratio from a mean over replicas."""
    loss = Loss(K)
    rng = np.random.default_rng(0)
    batch = _batches()[0]
    logits = tf.constant(rng.normal(size=(BATCH, SIZE, SIZE, K)), tf.float32)
    halves = [np.s_[:2], np.s_[2:]]
    means = [float(loss.parts(loss.sums(logits[half], batch["label"][half]))["loss"]) for half in halves]
    together = float(loss.parts(loss.sums(logits, batch["label"]))["loss"])
    assert abs(np.mean(means) - together) > 1e-3


def test_first_update_equals_numpy():
    """One SGD step of a 1x1 classifier with L2, against float64 by hand, on two replicas."""
    batch = _batches()[0]
    strategy = make_strategy(2)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        images = keras.Input((None, None, 3), dtype="uint8")
        model = keras.Model(images, keras.layers.Conv2D(K, 1)(keras.layers.Rescaling(1 / 255)(images)))
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.9, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=False,
        )
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K), weight_decay=0.5)
    totals = train(iter(strategy.experimental_distribute_dataset(_dataset([batch]))), tf.constant(1))

    valid = batch["label"] != 255
    pixels, labels = batch["image"][valid] / 255, batch["label"][valid]
    logits = pixels @ kernel[0, 0] + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(totals.losses["loss"]) == pytest.approx(
        -np.log(probabilities[np.arange(len(labels)), labels]).mean(), rel=1e-5
    )
    expected_matrix = np.zeros((K, K), int)
    np.add.at(expected_matrix, (labels, logits.argmax(1)), 1)
    np.testing.assert_array_equal(totals.confusion, expected_matrix)
    errors = (probabilities - np.eye(K)[labels]) / len(labels)
    new_kernel, new_bias = model.get_weights()
    np.testing.assert_allclose(
        new_kernel[0, 0], kernel[0, 0] - 0.1 * (pixels.T @ errors + 0.5 * kernel[0, 0]), rtol=1e-4
    )
    np.testing.assert_allclose(new_bias, bias - 0.1 * errors.sum(0), atol=1e-7)


def test_several_steps_in_one_call_equal_single_calls():
    together, totals = _train(2, calls=(STEPS,))
    apart, apart_totals = _train(2, calls=(1, 3, 1))
    assert_equal(together, apart, rtol=1e-6)
    np.testing.assert_array_equal(totals.confusion, apart_totals.confusion)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(precision):
    skip_without_kernels(precision)
    _, exact = _train(2)
    weights, rough = _train(2, precision=precision)
    assert rough.losses["loss"] == pytest.approx(exact.losses["loss"], rel=0.03)
    assert rough.non_finite == 0
    assert all(np.isfinite(value).all() for value in weights.values())
