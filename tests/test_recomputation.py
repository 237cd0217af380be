"""Recomputed features: the same update as without, no collective or draw more, and a graph in which they remain."""

import numpy as np
import pytest
from conftest import make_strategy, skip_without_kernels
from small_step import _batches, small_model, train_small
from step_graph import _collectives, _kernels, _trace

from deeplab.errors import UsageError
from deeplab.model.deeplabv3 import build_to_train
from deeplab.model.recomputation import RecomputedNetwork, segments
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.training.settings import StepSettings

pytestmark = pytest.mark.usefixtures("float32")


@pytest.mark.parametrize(
    ("num_replicas", "options"),
    [
        (1, {"dropout_rate": 0.3}),
        (2, {"dropout_rate": 0.3, "auxiliary_weight": 0.4}),
        (2, {"dropout_rate": 0.3, "step_options": {"accumulate_steps": 2}}),
        (2, {"precision": "bfloat16"}),
        (1, {"precision": "float16", "loss_name": "cross_entropy_dice"}),
        (2, {"synchronized": False}),
        (1, {"frozen": True}),
    ],
    ids=str,
)
def test_the_update_is_the_same(num_replicas, options):
    """Weights, momentum, moving statistics, random state and totals after two steps."""
    if "precision" in options:
        skip_without_kernels(options["precision"])
    plain, totals = train_small(make_strategy(num_replicas), calls=(2,), **options)
    again, totals_again = train_small(make_strategy(num_replicas), calls=(2,), recompute=True, **options)
    assert plain.keys() == again.keys()
    for path, value in plain.items():
        np.testing.assert_allclose(again[path], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=path)
    np.testing.assert_array_equal(totals_again.confusion, totals.confusion)
    assert totals_again.losses == pytest.approx(totals.losses, rel=1e-6)


def _trace_step(num_replicas, recompute):
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        model = small_model()
        if recompute:
            model = RecomputedNetwork(model.input, model.output)
    return _trace(model, strategy, _batches())


def test_no_collective_is_repeated():
    """One each way for each of two layers, one for the sums, one for the gradient."""
    assert _collectives(*_trace_step(2, recompute=True), 2) == 2 * 2 + 2


def test_tensorflow_does_not_merge_what_is_computed_twice():
    """In the graph that ran, the forward kernels of both normalizations are there twice, the convolutions once."""
    plain, again = (_kernels(*_trace_step(1, recompute), 0) for recompute in (False, True))
    assert (_count(plain, "BatchNorm"), _count(again, "BatchNorm")) == (2, 4)
    assert _count(plain, "Conv2D") + _count(plain, "MatMul") == _count(again, "Conv2D") + _count(again, "MatMul") > 0


def _count(kernels, name):
    """Kernels of a kind, alone or fused with others, gradients left out."""
    return sum(count for kind, count in kernels.items() if name in kind and "Grad" not in kind)


def test_it_keeps_what_costs_most_and_the_ends_of_blocks():
    """... of a bottleneck: the output of its 3x3 convolution, of m channels, and its own, of 4 m: 5 m instead of 12."""
    config = ModelConfig(tuple("ab"))
    model, training_model = build_to_train(
        config, InitSettings("none"), has_weights=False, auxiliary_head=False, recompute=True
    )
    assert isinstance(training_model, RecomputedNetwork) and not isinstance(model, RecomputedNetwork)
    assert training_model.layers == model.layers
    ends = [segment.nodes[-1].operation.name for segment in segments(model.get_layer("resnet50"))]
    blocks = [(stage, block) for stage, number in ((2, 3), (3, 4), (4, 6), (5, 3)) for block in range(1, number + 1)]
    of_blocks = [f"conv{stage}_block{block}_{end}" for stage, block in blocks for end in ("2_conv", "out")]
    assert ends == ["conv1_conv", *of_blocks]


def test_in_inference_it_is_the_plain_network():
    model = small_model()
    images = _batches()[0]["image"]
    recomputed = RecomputedNetwork(model.input, model.output)
    np.testing.assert_array_equal(recomputed(images, training=False), model(images, training=False))


def test_xla_would_merge_it():
    with pytest.raises(UsageError, match=r"^--recompute: not with --jit_compile"):
        StepSettings(recompute=True, jit_compile=True)
