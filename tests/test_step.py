"""The compiled step: any number of replicas gives the result of one replica, which is that of NumPy."""

import collections
import functools
import inspect
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ViewerOf, make_strategy, skip_without_kernels
from tensorflow.python.distribute import mirrored_run, mirrored_strategy
from tensorflow.python.eager import context

from deeplab.evaluator import Evaluator
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm, unsynchronize_batch_norm
from deeplab.model.dropout import GlobalDropout
from deeplab.model.inference import MIN_SIDE, Predictor
from deeplab.model.normalization import BatchNormalization
from deeplab.model.recomputation import RecomputedNetwork
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.optimizer import averaged_weights, make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LOSSES, LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

K = 3
SIZE = 12
BATCH = 4
STEPS = 5


def small_model(auxiliary_head=False, dropout_rate=0.0):
    """A network with the relevant parts: dilated convolutions, synchronised batch normalisation, a classifier."""
    images = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.Rescaling(1 / 255)(images)
    for filters in (8, 8):
        features = AtrousConv2D(filters, 3, padding="same", dilation_rate=2, use_bias=False)(features)
        features = BatchNormalization(synchronized=True)(features)
        features = keras.layers.ReLU()(features)
    if dropout_rate:
        features = GlobalDropout(dropout_rate)(features)
        branch = GlobalDropout(dropout_rate, noise_shape=(None, 1, 1, 1))(features)  # as in EfficientNetV2
        features = keras.layers.Add()([branch, features])
    outputs = [AtrousConv2D(K, 1, dtype="float32")(features) for _ in range(1 + auxiliary_head)]
    return keras.Model(images, outputs if auxiliary_head else outputs[0])


@pytest.fixture(autouse=True)
def _float32():
    yield
    keras.config.set_dtype_policy("float32")


def _batches(seed=0):
    """Five global batches whose first halves are nearly all void, so that replicas have unequal numbers of pixels."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(STEPS):
        images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
        labels = (images[..., 0] // 86).astype(np.uint8)
        labels[: BATCH // 2][rng.random((BATCH // 2, SIZE, SIZE)) < 0.9] = 255
        labels[BATCH // 2 :][rng.random((BATCH // 2, SIZE, SIZE)) < 0.1] = 255
        batches.append({"image": images, "label": labels})
    return batches


def _dataset(batches):
    stacked = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _worker_dataset(batches, context):
    """A worker's rows of each global batch, in batches for one replica."""
    size = BATCH // context.num_input_pipelines
    mine = np.s_[context.input_pipeline_id * size : (context.input_pipeline_id + 1) * size]
    stacked = {name: np.concatenate([batch[name][mine] for batch in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked).batch(context.get_per_replica_batch_size(BATCH))


def train_small(
    strategy,
    loss_name="cross_entropy",
    optimizer_name="sgd",
    precision="float32",
    calls=(STEPS,),
    auxiliary_weight=0.0,
    ema_momentum=0.0,
    step_options=None,
    frozen=False,
    dropout_rate=0.0,
    synchronized=True,
    recompute=False,
    **loss_options,
):
    """Five steps from fixed weights; returns the variables by path and the totals of all calls."""
    keras.backend.clear_session()  # the same layer names every time
    keras.config.set_dtype_policy({"float32": "float32"}.get(precision, f"mixed_{precision}"))
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = small_model(auxiliary_weight > 0, dropout_rate)
        if frozen:
            freeze_batch_norm(model)
        if not synchronized:
            unsynchronize_batch_norm(model)
        training_model = RecomputedNetwork(model.input, model.output) if recompute else model
        schedule = Schedule(ScheduleSettings("polynomial", 1), 0.05, STEPS, tf.Variable(1.0, trainable=False))
        settings = OptimizerSettings(optimizer_name, momentum=0.9, weight_decay=1e-2, ema_momentum=ema_momentum)
        optimizer = make_optimizer(settings, schedule, model.trainable_variables, precision == "float16")
    losses = LossSettings(loss_name, auxiliary_weight=auxiliary_weight, **loss_options)
    state = TrainState(model, training_model, optimizer, schedule)
    step = StepSettings(**(step_options or {}))
    train = make_train_step(strategy, state, Loss(K, losses, (1.0, 2.0, 0.5)), step, weight_decay=settings.l2)
    make_dataset = functools.partial(_worker_dataset, _batches())
    iterator = iter(strategy.distribute_datasets_from_function(make_dataset))
    totals = [train(iterator, tf.constant(count)) for count in calls]
    weights = {variable.path: variable.numpy() for variable in [*model.variables, *optimizer.variables]}
    with averaged_weights(optimizer, model.trainable_variables):
        weights |= {f"{variable.path} averaged": variable.numpy() for variable in model.trainable_variables}
    for variable in model.variables:
        np.testing.assert_array_equal(variable.numpy(), weights[variable.path])  # as before the average
        for each in strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(each, weights[variable.path])
    return weights, tf.nest.map_structure(lambda *parts: sum(part.numpy() for part in parts), *totals)


_TRAINED = {}
"""What `_train` returned, by its arguments."""


def _train(num_replicas, *arguments, **options):
    """The result of `train_small`, traced once for all tests that ask for the same; they only read it."""
    bound = inspect.signature(train_small).bind(None, *arguments, **options)
    bound.apply_defaults()
    key = repr((num_replicas, bound.arguments))
    if key not in _TRAINED:
        _TRAINED[key] = train_small(make_strategy(num_replicas), *arguments, **options)
    return _TRAINED[key]


def assert_equal(first, second, rtol):
    assert first.keys() == second.keys()
    for path, value in first.items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(second[path] / scale, value / scale, atol=rtol, err_msg=path)


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


def test_xla_makes_the_same_update():
    """On one CPU device, where XLA can compile a step without dilated convolutions; the programs reject it on CPUs."""
    weights, totals = _train(1)
    compiled, compiled_totals = _train(1, step_options={"jit_compile": True})
    assert_equal(weights, compiled, rtol=2e-5)
    assert compiled_totals.losses["loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)
    assert np.abs(compiled_totals.confusion - totals.confusion).sum() <= 4


@pytest.fixture
def cpus_as_gpus(monkeypatch):
    """tf.distribute takes CPUs for GPUs, where it compiles each replica's step inside the replica's own thread."""
    for module in (mirrored_strategy, mirrored_run):
        monkeypatch.setattr(module, "_is_gpu_device", lambda device: True)


def test_xla_compiles_the_step_of_one_gpu(cpus_as_gpus):
    weights, _ = train_small(make_strategy(1))
    compiled, _ = train_small(tf.distribute.OneDeviceStrategy("CPU:0"), step_options={"jit_compile": True})
    assert_equal(weights, compiled, rtol=2e-5)


def test_xla_cannot_compile_the_step_of_mirrored_gpus(cpus_as_gpus):
    """The reason why devices.check_strategy rejects it, even for one replica. Permit it once this test fails."""
    with pytest.raises(RuntimeError, match="merge_call"):
        train_small(make_strategy(1), step_options={"jit_compile": True})


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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(precision):
    skip_without_kernels(precision)
    _, exact = _train(2)
    weights, rough = _train(2, precision=precision)
    assert rough.losses["loss"] == pytest.approx(exact.losses["loss"], rel=0.03)
    assert rough.non_finite == 0
    assert all(np.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("bad_half", [0, 1])
def test_non_finite_steps_are_counted_once(bad_half):
    strategy = make_strategy(2)
    with strategy.scope():
        images = keras.Input((None, None, 3), dtype="float32")
        model = keras.Model(images, keras.layers.Conv2D(K, 1)(images))
        schedule = Schedule(ScheduleSettings("constant", 0), 0.0, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=False,
        )
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
    with strategy.scope():
        images = keras.Input((None, None, 3), dtype="float32")
        model = keras.Model(images, keras.layers.Conv2D(K, 1)(images))
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0),
            schedule,
            model.trainable_variables,
            loss_scaling=True,
        )
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


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_evaluation_is_exact_on_any_number_of_replicas(num_replicas):
    batches = _batches()
    for number, batch in enumerate(batches):
        batch["is_example"] = np.ones(BATCH, np.int64)
        batch["name"] = np.array([f"{number}_{row}" for row in range(BATCH)])
    batches[-1]["label"][2:] = 255
    batches[-1]["is_example"][2:] = 0
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = small_model()
        predict = Predictor(model)
    loss = Loss(K, LossSettings("cross_entropy_dice"))
    seen = []

    class Batches:
        """A stand-in for the batches of a split's shards."""

        split = SimpleNamespace(folder="shards", class_names=("a", "b", "c"), num_examples=STEPS * BATCH)

        def num_steps(self, context):
            return STEPS

        def for_worker(self, context):
            return _dataset(batches).rebatch(context.get_per_replica_batch_size(BATCH)).repeat()

    def viewer(name, image, label, prediction):
        seen.append((name, prediction))

    evaluate = Evaluator(strategy, predict, loss, Batches(), viewers=[ViewerOf(viewer)])
    result, again = evaluate(), evaluate()
    np.testing.assert_array_equal(again.confusion, result.confusion)
    assert again.losses == pytest.approx(result.losses)

    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    extended = np.pad(images, [(0, 0), (0, MIN_SIDE - SIZE), (0, MIN_SIDE - SIZE), (0, 0)])
    logits = model(extended, training=False)[:, :SIZE, :SIZE].numpy().astype(np.float64)
    predictions = logits.argmax(-1)
    valid = labels != 255
    expected = np.zeros((K, K), int)
    np.add.at(expected, (labels[valid], predictions[valid]), 1)
    np.testing.assert_array_equal(result.confusion, expected)
    of_examples = predictions[:-2]  # without the two fillers
    seen.sort(key=lambda example: example[0])  # threads view them
    assert [name for name, _ in seen] == [f"{i // BATCH}_{i % BATCH}" for i in range(len(of_examples)) for _ in "12"]
    np.testing.assert_array_equal(np.stack([prediction for _, prediction in seen]), np.repeat(of_examples, 2, 0))
    assert result.num_images == STEPS * BATCH - 2
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = -np.log(probabilities[valid][np.arange(valid.sum()), labels[valid]]).mean()
    dice = [
        1 - 2 * probabilities[labels == c][:, c].sum() / (probabilities[valid][:, c].sum() + (labels == c).sum())
        for c in range(K)
    ]
    assert result.losses["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert result.losses["dice"] == pytest.approx(np.mean(dice), rel=1e-5)


def _initial_weights():
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = small_model()
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def _norm(arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays))


def test_norms_are_those_of_the_first_update():
    """SGD's first update from rest is learning rate x gradient, so the weights show the gradient."""
    before = _initial_weights()
    weights, totals = _train(1, calls=(1,))
    rate = 0.05
    gradient = [(before[path] - weights[path]) / rate for path in before]
    assert totals.gradient_norm == pytest.approx(_norm(gradient), rel=1e-3)
    assert totals.weight_norm == pytest.approx(_norm([weights[path] for path in before]), rel=1e-5)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_weight_norm_is_taken_after_the_last_step_of_a_call(num_replicas):
    trainable = _initial_weights().keys()
    weights, totals = _train(num_replicas, calls=(STEPS,))
    expected = STEPS * _norm([weights[path] for path in trainable])
    assert totals.weight_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"clip_norm": 1e-3}, {"accumulate_steps": 2}])
def test_gradient_norm_is_taken_before_clipping_and_over_all_replicas(options):
    for step_options in ({}, options):
        expected, *others = (
            _train(replicas, calls=(1,), frozen=True, step_options=step_options)[1].gradient_norm for replicas in (1, 2)
        )
        assert others == pytest.approx([expected], rel=1e-4)


def _traced_nodes(train, iterator):
    """All nodes of the traced function and of the functions that it calls."""
    graph = train.get_concrete_function(iterator, tf.constant(1)).graph.as_graph_def()
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _collectives(train, iterator, num_replicas):
    """Collective operations per replica and step in the traced function."""
    kinds = [node.op for node in _traced_nodes(train, iterator) if node.op.startswith("Collective")]
    assert set(kinds) <= {"CollectiveReduceV2"}
    count, rest = divmod(len(kinds), num_replicas)
    assert rest == 0
    return count


def _trace(model, strategy, batches, precision="float32", **step_options):
    with strategy.scope():
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, precision == "float16")
    state = TrainState(model, model, optimizer, schedule)
    loss = Loss(K, LossSettings(auxiliary_weight=0.4) if len(model.outputs) > 1 else LossSettings())
    train = make_train_step(strategy, state, loss, StepSettings(**step_options), weight_decay=1e-4)
    return train, iter(strategy.distribute_datasets_from_function(functools.partial(_worker_dataset, batches)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2),  # sums with confusion matrix; gradient
        ({"clip_norm": 1.0}, 3),  # also the norm
        ({"precision": "float16"}, 2),
        ({"precision": "float16", "clip_norm": 1.0, "auxiliary_head": True}, 3),
        ({"accumulate_steps": 2}, 3),  # also the sums of all micro-batches before the gradient
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("change", "of_normalization"),
    [(None, 2 * 2), (freeze_batch_norm, 0), (unsynchronize_batch_norm, 1)],
    ids=["synchronised", "frozen", "own statistics"],
)
def test_a_step_takes_few_all_reduces(options, expected, change, of_normalization):
    """The small network has two layers of batch normalisation."""
    options = dict(options)
    keras.config.set_dtype_policy("mixed_float16" if "precision" in options else "float32")
    strategy = make_strategy(2)
    with strategy.scope():
        model = small_model(options.pop("auxiliary_head", False))
        if change:
            change(model)
    train, iterator = _trace(model, strategy, _batches(), **options)
    assert _collectives(train, iterator, 2) == of_normalization + expected


def test_accumulated_gradients_stay_on_their_replica():
    """A loop keeps the tensors that it carries on the first device: the images and a few sums, but no gradients."""
    strategy = make_strategy(2)
    with strategy.scope():
        model = small_model()
    train, iterator = _trace(model, strategy, _batches(), accumulate_steps=2)
    carried = collections.Counter()
    for node in (node for node in _traced_nodes(train, iterator) if node.op == "While"):
        for dtype, shape in zip(node.attr["T"].list.type, node.attr["output_shapes"].list.shape, strict=True):
            carried[tuple(size.size for size in shape.dim)] += tf.dtypes.as_dtype(dtype) == tf.float32
    kernels = [tuple(v.shape) for v in model.trainable_variables if v.path.endswith("kernel")]
    assert carried and kernels and not any(carried[kernel] for kernel in kernels)


def test_a_step_of_one_replica_takes_no_all_reduce():
    strategy = make_strategy(1)
    with strategy.scope():
        model = small_model()
    assert _collectives(*_trace(model, strategy, _batches()), 1) == 0


NOT_KERNELS = {"_Arg", "_Retval", "Const", "_Send", "_Recv", "NoOp", "_HostSend", "_HostRecv", "Enter", "Exit"}


def _kernels(train, iterator, device):
    """Operations on a logical CPU in the graph of one step that ran, after TensorFlow's optimisations, by kind."""
    context.enable_graph_collection()
    train(iterator, tf.constant(1))
    graphs = context.export_run_metadata().function_graphs
    context.disable_graph_collection()
    parts = max((graph.partition_graphs for graph in graphs), key=lambda parts: sum(len(part.node) for part in parts))
    names = [node.op for part in parts for node in part.node if node.device.endswith(f"CPU:{device}")]
    return collections.Counter(name for name in names if name not in NOT_KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize(("num_replicas", "most_kernels"), [(1, 4000), (2, 6500)])
def test_a_step_of_resnet50_takes_few_all_reduces_and_kernels(num_replicas, most_kernels):
    """The count is that of the last replica, and of the host if it is the only one. Run with -rP to see it."""
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        model = build_deeplabv3(ModelConfig(tuple("abc")))
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    train, iterator = _trace(model, strategy, _batches())
    assert _collectives(train, iterator, num_replicas) == (2 * len(layers) + 2 if num_replicas > 1 else 0) <= 120
    kernels = _kernels(train, iterator, num_replicas - 1)
    print(f"{num_replicas} replicas, operations traced: {len(_traced_nodes(train, iterator))}")
    print(f"{num_replicas} replicas: {kernels.total()} kernels; most often {kernels.most_common(12)}")
    assert kernels["ResourceApplyKerasMomentum"] == len(model.trainable_variables)
    assert kernels.total() <= most_kernels


def test_time_without_a_batch_is_reported():
    """Each call but the first gets its batch only after a delay; no call can have waited longer than it took."""
    delay, permits = 0.4, threading.Semaphore(0)

    def batches_on_permit():
        for batch in _batches():
            permits.acquire()
            yield batch

    signature = {
        "image": tf.TensorSpec([BATCH, SIZE, SIZE, 3], tf.uint8),
        "label": tf.TensorSpec([BATCH, SIZE, SIZE], tf.uint8),
    }
    strategy = make_strategy(1)
    with strategy.scope():
        model = small_model()
        schedule = Schedule(ScheduleSettings("constant", 1), 0.05, STEPS, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.9, weight_decay=0.0), schedule, model.trainable_variables, False
        )
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K))
    dataset = tf.data.Dataset.from_generator(batches_on_permit, output_signature=signature)
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    permits.release()
    train(iterator, tf.constant(1))
    waits = []
    for _ in range(STEPS - 1):
        start = time.time()
        threading.Timer(delay, permits.release).start()
        waits.append(float(train(iterator, tf.constant(1)).data_wait_seconds))
        assert 0 <= waits[-1] <= time.time() - start + 0.01
    assert max(waits) > delay / 2  # on a busy machine a call may start late
