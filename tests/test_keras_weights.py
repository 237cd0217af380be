"""Files of Keras are read by the names of layers, and only what is in the file itself."""

import h5py
import keras
import numpy as np
import pytest
from tiny import build as build_tiny

from deeplab.errors import DataError
from deeplab.model.backbone import family_of_weights
from deeplab.model.published.keras_file import read_keras
from deeplab.model.published.names import KERAS_NAMES
from deeplab.model.published.transfer import leaves, transfer


def _tiny_with_statistics():
    model = build_tiny(include_top=False, weights=None)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def _inside(model, form):
    """Models that hold the tiny one: it itself, with a top, as a layer of others, frozen and compiled."""
    if form == "alone":
        return model
    if form == "with top":
        pooled = keras.layers.GlobalAveragePooling2D()(model.output)
        return keras.Model(model.input, keras.layers.Dense(3, name="predictions")(pooled))
    images = keras.Input((64, 64, 3))
    outputs = keras.layers.Dense(3, name="head")(keras.layers.Flatten()(model(images)))
    nested = keras.Model(images, outputs) if form == "nested" else keras.Sequential([model, keras.layers.Flatten()])
    model.trainable = False
    nested.compile("adam", "mse")
    return nested


@pytest.mark.parametrize("form", ["alone", "with top", "nested", "sequential"])
@pytest.mark.parametrize("ending", ["weights.h5", "h5", "keras"])
def test_keras_files_are_read_by_the_names_of_layers(tmp_path, form, ending):
    model = _tiny_with_statistics()
    outer = _inside(model, form)
    path = tmp_path / f"file.{ending}"
    (outer.save_weights if ending == "weights.h5" else outer.save)(path)
    assert family_of_weights(str(path)) == "keras"
    again = build_tiny(include_top=False, weights=None)
    transfer(again, read_keras(path, again), KERAS_NAMES, "file")
    for value, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_keras_files_of_keras_2_are_read(tmp_path):
    """Names end in :0, depthwise kernels have another name, MobileNetV3's layers had slashes, and lists are split."""
    images = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(images)
    features = keras.layers.BatchNormalization(name="conv_bn")(features)
    model = keras.Model(images, keras.layers.DepthwiseConv2D(3, use_bias=False, name="conv_depthwise")(features))
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 1.5, variable.shape).astype(np.float32) for variable in model.weights]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        layers = {"Conv": ["kernel"], "Conv/BatchNorm": ["gamma", "beta", "moving_mean", "moving_variance"]}
        layers["conv/depthwise"] = ["depthwise_kernel"]
        left = iter(values)
        for number, (layer, variables) in enumerate(layers.items()):
            file.attrs[f"layer_names{number}"] = [layer.encode()]
            names = [f"{layer}/{variable}:0" for variable in variables]
            file.create_group(layer).attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                file[layer][name] = next(left)
    transfer(model, read_keras(tmp_path / "old.h5", model), KERAS_NAMES, "file")
    for value, expected in zip(model.get_weights(), values, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_weights_of_the_same_names_twice_or_of_other_shapes_are_refused(tmp_path):
    model = _tiny_with_statistics()
    images = keras.Input((64, 64, 3))
    other = _tiny_with_statistics()
    other.name = "other"
    both = keras.layers.Add()([model(images), other(images)])
    keras.Model(images, both).save_weights(tmp_path / "both.weights.h5")
    with pytest.raises(DataError, match="two layers are called norm0"):
        read_keras(tmp_path / "both.weights.h5", model)
    tensors = {
        f"{layer.name}/{variable.name}": variable.numpy() for layer in leaves(model) for variable in layer.weights
    }
    before = model.get_weights()
    for change, words in (
        ({"norm1/gamma": np.ones(9, np.float32)}, r"norm1/gamma has the shape \(9,\), and norm1 needs \(8,\)"),
        ({"more/kernel": np.ones((1, 2), np.float32)}, r"more/kernel \(1, 2\) has no place"),
    ):
        with pytest.raises(DataError, match=f"--backbone_weights=x: {words}"):
            transfer(model, tensors | change, KERAS_NAMES, "--backbone_weights=x")
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("kind", ["soft", "external", "group of another file", "virtual", "outside", "group", "none"])
def test_only_datasets_of_the_file_itself_are_read(tmp_path, kind):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["kernel"] = np.ones(4, np.float32)
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.attrs["layer_names"] = ["norm0"]
        layer = h5py.ExternalLink("other.h5", "/")
        if kind != "group of another file":
            layer = file.create_group("hidden")
            layer.attrs["weight_names"] = ["kernel"]
        file["norm0"] = layer
        if kind == "soft":
            layer["kernel"] = h5py.SoftLink("/norm0")
        elif kind == "external":
            layer["kernel"] = h5py.ExternalLink("other.h5", "kernel")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), np.float32)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "kernel", (4,))
            layer.create_virtual_dataset("kernel", layout)
        elif kind == "outside":
            layer.create_dataset("kernel", (4,), np.float32, external=[(str(tmp_path / "raw"), 0, 16)])
        elif kind == "group":
            layer.create_group("kernel")
    words = {"virtual": "kept in other files", "outside": "kept in other files", "group": "kernel is a group"}
    words["none"] = "component not found|doesn't exist"
    with pytest.raises(
        DataError, match=rf"file\.h5: cannot be read as .*({words.get(kind, 'is a link, which is not')})"
    ):
        read_keras(tmp_path / "file.h5", build_tiny(include_top=False, weights=None))


@pytest.mark.parametrize("value", [7, [1, 2], 2.5, [b"\xff"]])
def test_damaged_names_of_layers_end_in_one_line(tmp_path, value):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.attrs["layer_names"] = value
    with pytest.raises(DataError, match=r"file\.h5: cannot be read as a Keras file"):
        read_keras(tmp_path / "file.h5", build_tiny(include_top=False, weights=None))
