"""Copies of a model on several devices: each takes an image, or all share the windows of a large one."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.api import ONE_PASS, Inference, Model
from deeplab.commands.predict import one_image
from deeplab.commands.predict.devices import on_all_devices
from deeplab.commands.predict.one_image import OneImage, Wanted
from deeplab.threads import in_order


def _loader(inference=ONE_PASS):
    def load():
        keras.utils.set_random_seed(1)
        images = keras.Input((None, None, 3))
        network = keras.Model(images, keras.layers.Conv2D(4, 3, padding="same")(images))
        return Model.from_keras(network, tuple("abcd"), inference)

    return load


def test_each_device_has_a_model_of_its_own_and_all_give_the_same_classes():
    load = _loader()
    devices = tf.config.list_logical_devices("CPU")
    assert len(on_all_devices(load, most=2)) == 2
    models = on_all_devices(load, most=9)
    kernels = [model._model.keras_model.variables[0].value for model in models]
    assert [tf.DeviceSpec.from_string(kernel.device).device_index for kernel in kernels] == [*range(len(devices))]

    images = list(np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), np.uint8))
    expected = [models[0].segment(image) for image in images]
    assert len(np.unique(expected)) == 4
    for model in models[1:]:
        np.testing.assert_array_equal(list(in_order(model.segment, images, 2)), expected)


@pytest.mark.parametrize("inference", [Inference(window_size=40), Inference((0.5, 1.0), True, 40, window_batch=2)])
def test_idle_devices_share_the_windows_of_a_large_image(inference, tmp_path, monkeypatch):
    """With the classes of one device, bit for bit; an image that is no larger than the limit has one device."""
    image = np.random.default_rng(0).integers(0, 256, (170, 130, 3), np.uint8)
    expected = _loader(inference)().segment(image)
    models = on_all_devices(_loader(inference), most=None)
    bands = []
    segment_band = models[0].__class__.segment_band

    def noted(model, image, index, number):
        bands.append((threading.get_ident(), index, number))
        return segment_band(model, image, index, number)

    monkeypatch.setattr(models[0].__class__, "segment_band", noted)
    monkeypatch.setattr(one_image, "SHARED", 170 * 130)
    make = OneImage(models, Wanted(tmp_path, (), None, 10**6))
    np.testing.assert_array_equal(make._segment(tmp_path, image), expected)
    assert not bands
    monkeypatch.setattr(one_image, "SHARED", 170 * 130 - 1)
    for _ in range(2):  # the devices are idle again after the first time
        np.testing.assert_array_equal(make._segment(tmp_path, image), expected)
    number = len(models)
    assert sorted(index for _, index, _ in bands) == sorted(2 * [*range(number)])
    assert {of for _, _, of in bands} == {number}
    assert len({thread for thread, _, _ in bands}) > 1


def test_an_image_in_one_window_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(one_image, "SHARED", 0)
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    models = on_all_devices(_loader(Inference(window_size=40)), most=2)
    monkeypatch.setattr(models[0].__class__, "segment_band", None)
    make = OneImage(models, Wanted(tmp_path, (), None, 10**6))
    np.testing.assert_array_equal(make._segment(tmp_path, image), models[0].segment(image))
