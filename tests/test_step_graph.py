"""How many all-reduces and kernels a step takes, and where its tensors are."""

import collections
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy
from small_step import _batches, small_model
from step_graph import _collectives, _kernels, _trace, _traced_nodes

from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm, unsynchronize_batch_norm
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("float32")


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


def test_autograph_leaves_what_a_step_calls_alone():
    """Reading and rewriting it takes as long as tracing it."""

    def seen_by_autograph(batch):
        return batch

    strategy = make_strategy(1)
    with strategy.scope():
        images = keras.Input((None, None, 3), dtype="float32")
        model = keras.Model(images, keras.layers.Conv2D(2, 1)(images))
        schedule = Schedule(ScheduleSettings(), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, loss_scaling=False)
    state = TrainState(model, model, optimizer, schedule)
    train = make_train_step(strategy, state, Loss(2), finish=seen_by_autograph)
    batch = {"image": np.ones((2, 2, 2, 3), np.float32), "label": np.zeros((2, 2, 2), np.uint8)}
    train(iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1))
    written = [module for name, module in [*sys.modules.items()] if name.startswith("__autograph_generated_file")]
    assert written  # the loop over steps
    assert not [module for module in written if seen_by_autograph.__name__ in Path(module.__file__).read_text()]
