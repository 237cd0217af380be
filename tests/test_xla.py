"""A step compiled by XLA makes the same update, and where XLA cannot compile it."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy
from small_step import _train, assert_equal, train_small
from tensorflow.python.distribute import mirrored_run, mirrored_strategy


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
