"""Networks with published weights: logits, names and files of the packages that publish them (golden/)."""

import ast
import hashlib
import os
import pickle
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from tiny import build as build_tiny

from deeplab.errors import DataError, UsageError
from deeplab.model.backbone import atrous_backbone, family_of_weights
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3
from deeplab.model.published.files import read_tensors
from deeplab.model.published.keras_file import read_keras
from deeplab.model.published.names import KERAS_NAMES, torch_backbone
from deeplab.model.published.recognition import recognize
from deeplab.model.published.torch_file import read_torch
from deeplab.model.published.transfer import leaves, transfer

GOLDEN = Path(__file__).with_name("golden")
sys.path.insert(0, str(GOLDEN))
from draw import draw_torch, image  # noqa: E402
from research_deeplab import Network  # noqa: E402

HEIGHT, WIDTH, SAMPLE, NUM_CLASSES = 65, 96, 5, 5  # as in golden/published_torch.py


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "published.npz") as arrays:
        return dict(arrays)


def _tensors(golden, network):
    lines = (str(line).split(" ", 1) for line in golden[f"{network}/tensors"])
    return {name: draw_torch(name, ast.literal_eval(shape)) for name, shape in lines}


def _difference(logits, expected):
    """Of the largest logit."""
    logits = np.asarray(logits)
    assert logits.shape == expected.shape
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "title", "backbone", "output_stride"),
    [
        ("torchvision/mobilenet_v3_large", "torchvision's DeepLab v3", "mobilenet_v3_large", 16),
        ("torchvision/resnet50", "torchvision's DeepLab v3", "resnet50", 8),
        ("torchvision/resnet101", "torchvision's DeepLab v3", "resnet101", 8),
        ("smp/DeepLabV3", "segmentation-models-pytorch's DeepLabV3", "resnet50", 8),
        ("smp/DeepLabV3Plus", "segmentation-models-pytorch's DeepLabV3Plus", "resnet50", 16),
    ],
)
def test_logits_are_those_of_the_package_that_published_the_network(golden, network, title, backbone, output_stride):
    """Recognized by its tensors alone; of images whose sides are no multiples of the stride."""
    tensors = _tensors(golden, network)
    found = recognize(tensors, None, "file")
    assert (found.title, found.config.backbone, found.config.output_stride) == (title, backbone, output_stride)
    assert found.has_auxiliary_head == network.startswith("torchvision")
    model = build_deeplabv3(found.config, auxiliary_head=found.has_auxiliary_head)
    transfer(model, tensors, found.names, "file")
    outputs = keras.tree.flatten(model(image(HEIGHT, WIDTH)[np.newaxis], training=False))
    for name, logits in zip(("out", "aux"), outputs, strict=False):
        assert _difference(logits[0, ::SAMPLE, ::SAMPLE], golden[f"{network}/{name}"]) < 1e-4
    assert ModelConfig.from_json(found.config.to_json()) == found.config


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"head_family": "smp"}, {"backbone_family": "keras"}])
def test_the_comparison_would_notice_other_conventions(golden, change):
    network = "torchvision/mobilenet_v3_large"
    tensors = _tensors(golden, network)
    found = recognize({name: each for name, each in tensors.items() if not name.startswith("aux")}, None, "file")
    model = build_deeplabv3(replace(found.config, **change))
    transfer(model, {name: each for name, each in tensors.items() if not name.startswith("aux")}, found.names, "file")
    logits = model(image(HEIGHT, WIDTH)[np.newaxis], training=False)[0, ::SAMPLE, ::SAMPLE]
    assert _difference(logits, golden[f"{network}/out"]) > 1e-3


@pytest.mark.parametrize("output_stride", [8, 16])
def test_logits_are_those_of_research_deeplab_and_its_checkpoint_is_read(tmp_path, output_stride):
    """Images are extended to 16 n + 1 pixels by gray, as its crops; both sides here are such or not."""
    reference = Network(2, output_stride)
    pixels = image(65, 97)
    expected = reference.logits(pixels)
    reference.save(tmp_path / "model.ckpt-30000")
    for place in (tmp_path, tmp_path / "model.ckpt-30000", tmp_path / "model.ckpt-30000.index"):
        tensors = read_tensors(place)
        assert len(tensors) == len(reference.variables) + 2
    found = recognize(tensors, output_stride, "file")
    assert (found.config.backbone, found.config.atrous_rates) == ("mobilenet_v2", ())
    model = build_deeplabv3(found.config)
    transfer(model, tensors, found.names, "file")
    assert _difference(model(pixels[np.newaxis])[0], expected) < 1e-4
    gray = np.pad(pixels[:60, :90].astype(np.float32), [(0, 5), (0, 7), (0, 0)], constant_values=127.5)
    assert _difference(model(pixels[np.newaxis, :60, :90])[0], reference.logits(gray)[:60, :90]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "resnet101", "resnet152", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_v2_s"]
)
def test_every_tensor_of_a_classifier_has_one_place(golden, name):
    """Names and shapes; timm's ResNet-50 has those of torchvision, which golden/published_torch.py asserts."""
    model = atrous_backbone(name, 16, None, family="torchvision")
    names = torch_backbone(name)
    lines = []
    for layer in leaves(model):
        for variable in layer.weights:
            axes = names.layout.axes(layer, len(variable.shape))
            shape = tuple(variable.shape[axis] for axis in np.argsort(axes))
            lines.append(f"{names.layout.name(names.module(layer.name), layer, variable.name)} {shape}")
    assert len(set(lines)) == len(lines)
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == str(golden[f"classifier/{name}"])


def test_a_file_of_pytorch_is_read_without_it():
    """Written by torch.save: a transposed view, a parameter, halves, an integer, an empty tensor; wrapped."""
    tensors = read_torch(GOLDEN / "weights.pth")
    assert "torch" not in sys.modules
    np.testing.assert_array_equal(tensors["weight"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tensors["bias"], [1, 2, 3])
    for name in ("half", "brain"):
        np.testing.assert_array_equal(tensors[name].astype(np.float32), [0.5, -2])
    assert tensors["count"].shape == () and tensors["count"] == 7
    assert tensors["none"].shape == (0, 4)


class _Touches:
    """A pickle of it creates a file, by a harmless call of another kind than those that rebuild tensors."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    pickled = pickle.dumps({"weight": _Touches(tmp_path / "ran")}, protocol=2)
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(DataError, match=r"it names (posix|nt)\.mkdir, which is not a tensor"):
        read_tensors(tmp_path / "file.pth")
    (tmp_path / "plain.pth").write_bytes(pickled)
    with pytest.raises(DataError, match="not a file of tensors"):
        read_tensors(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("name", "reason"),
    [("weights_legacy.pth", "File is not a zip file"), ("module.pth", r"it names torch\.nn\.modules\.linear\.Linear")],
)
def test_other_files_of_pytorch_are_refused_with_the_command_that_converts_them(name, reason):
    with pytest.raises(DataError, match=rf"{reason}.*python -c .*torch\.load.* {re.escape(str(GOLDEN / name))} NEW"):
        read_tensors(GOLDEN / name)


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((2, 3), (3, 1), 1), ((7,), (1,), 0), ((2, 3), (-3, 1), 5), ((2,), (1, 1), 0)]
)
def test_a_tensor_stays_in_its_storage(monkeypatch, size, stride, offset):
    from deeplab.model.published import torch_file

    storage = np.arange(6.0)
    with pytest.raises(pickle.UnpicklingError, match="a tensor "):
        torch_file._tensor(storage, offset, size, stride)
    np.testing.assert_array_equal(torch_file._tensor(storage, 0, (2, 3), (3, 1)), storage.reshape(2, 3))


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


def test_what_a_file_is_decides_the_conventions(tmp_path):
    assert family_of_weights("imagenet") == family_of_weights("none") == "keras"
    assert family_of_weights(str(GOLDEN / "weights.pth")) == "torchvision"
    with pytest.raises(DataError, match="--backbone_weights=nowhere: No such file"):
        family_of_weights("nowhere")
    with pytest.raises(UsageError, match="not for a network with the conventions of keras"):
        atrous_backbone("resnet50", 16, str(GOLDEN / "weights.pth"))
    with pytest.raises(UsageError, match="--backbone=efficientnet_v2_b0: torchvision has no weights of it"):
        ModelConfig(backbone="efficientnet_v2_b0", backbone_family="torchvision")
    with pytest.raises(UsageError, match="no conventions of the name 'x'; known are keras, torchvision"):
        ModelConfig(head_family="x")


def test_runs_without_the_fields_have_todays_conventions():
    fields = ModelConfig(("a", "b")).to_json()
    assert (fields.pop("backbone_family"), fields.pop("head_family")) == ("keras", "keras")
    assert ModelConfig.from_json(fields) == ModelConfig(("a", "b"))
