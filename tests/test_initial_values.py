"""Networks whose weights come from a checkpoint: nothing is drawn for them, and nothing is made twice."""

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.errors import DataError
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.initial_values import not_drawn
from deeplab.model.settings import ModelConfig
from deeplab.run.checkpoints import save_imported
from deeplab.run.run_folder import load_model, record_run


@pytest.fixture
def config(tiny_backbone):
    """A small network with each kind of layer that draws its weights, beside those of Keras in the application."""
    return ModelConfig(("a", "b"), backbone="tiny", separable_aspp=True, decoder=True)


def _kernels(model):
    return {variable.path: variable.numpy() for variable in model.weights if variable.name == "kernel"}


def test_kernels_are_zeros_and_all_else_is_as_ever(config):
    drawn = build_deeplabv3(config)
    with not_drawn():
        model = build_deeplabv3(config)
    assert all(kernel.any() for kernel in _kernels(drawn).values())
    assert len(_kernels(model)) == 5 + 13 and not any(kernel.any() for kernel in _kernels(model).values())
    for ours, theirs in zip(model.weights, drawn.weights, strict=True):
        assert (ours.path, ours.shape, ours.dtype) == (theirs.path, theirs.shape, theirs.dtype)
        if ours.name != "kernel":
            np.testing.assert_array_equal(ours, theirs)
    # With its initializers, so that a copy that Keras makes is random.
    assert all(kernel.any() for kernel in _kernels(keras.models.clone_model(model)).values())


def test_no_variable_is_made_but_those_of_the_network(config):
    made = []

    def count(create, **settings):
        made.append(create(**settings))
        return made[-1]

    with not_drawn(), tf.variable_creator_scope(count):
        model = build_deeplabv3(config)
    assert {id(variable) for variable in made} == {id(variable.value) for variable in model.variables}
    # Nor later: Keras gives values to variables that have none at the end of the next stateless scope.
    with tf.variable_creator_scope(count), keras.StatelessScope():
        pass
    assert len(made) == len(model.variables)


def test_networks_that_are_drawn_are_the_same_before_and_after(config):
    def kernels():
        keras.utils.set_random_seed(3)
        return _kernels(build_deeplabv3(config))

    before = kernels()
    with not_drawn(), ThreadPoolExecutor(1) as other_thread:
        of_other_thread = other_thread.submit(kernels).result()
        build_deeplabv3(config)
    for after in (of_other_thread, kernels()):
        for path, kernel in before.items():
            np.testing.assert_array_equal(after[path], kernel)


def test_as_many_seeds_are_taken(config):
    """Whatever is drawn later in a program is the same."""
    next_numbers = []
    for context in (not_drawn, contextlib.nullcontext):
        keras.utils.set_random_seed(4)
        with context():
            build_deeplabv3(config)
        next_numbers.append(random.random())
    assert next_numbers[0] == next_numbers[1]


def test_the_precision_is_that_of_the_thread(config):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with not_drawn():
            model = build_deeplabv3(config)
        backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
        assert {layer.compute_dtype for layer in backbone.layers} == {"bfloat16"}
    finally:
        keras.config.set_dtype_policy("float32")


def test_all_weights_of_a_loaded_run_are_those_of_its_checkpoint(config, tmp_path):
    model = build_deeplabv3(config)
    rng = np.random.default_rng(5)
    for variable in model.weights:
        variable.assign(rng.integers(1, 100, variable.shape))
    record_run(tmp_path, config, "")
    save_imported(tmp_path / "checkpoints", model, model)
    loaded, *_ = load_model(tmp_path)
    for found, saved in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, saved)


def test_a_weight_that_the_checkpoint_lacks_is_refused(config, tmp_path):
    record_run(tmp_path, config, "")
    smaller = build_deeplabv3(ModelConfig(config.class_names, backbone="tiny", separable_aspp=True))
    save_imported(tmp_path / "checkpoints", smaller, smaller)
    with pytest.raises(DataError, match="not a checkpoint of this model"):
        load_model(tmp_path)
