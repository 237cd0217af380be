"""The small network that the tests of the step train: its batches, its training and its variables."""

import functools
import inspect

import keras
import numpy as np
import tensorflow as tf
from conftest import make_strategy

from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import freeze_batch_norm, unsynchronize_batch_norm
from deeplab.model.dropout import GlobalDropout
from deeplab.model.normalization import BatchNormalization
from deeplab.model.recomputation import RecomputedNetwork
from deeplab.training.losses import Loss
from deeplab.training.optimizer import averaged_weights, make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
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
