"""Networks with published weights: logits, names and files of the packages that publish them (golden/)."""

import ast
import hashlib
import os
import pickle
import re
import shlex
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tiny import build as build_tiny

from deeplab.errors import DataError, UsageError
from deeplab.model.backbone import atrous_backbone, family_of_weights
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.published.files import read_tensors
from deeplab.model.published.keras_file import read_keras
from deeplab.model.published.names import KERAS_NAMES, torch_backbone
from deeplab.model.published.recognition import recognize
from deeplab.model.published.torch_file import read_torch
from deeplab.model.published.transfer import leaves, transfer
from deeplab.model.settings import ModelConfig

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

    values = np.arange(6.0)
    storage = torch_file._Storage(values)
    with pytest.raises(pickle.UnpicklingError, match="a tensor "):
        torch_file._tensor(storage, offset, size, stride)
    np.testing.assert_array_equal(torch_file._tensor(storage, 0, (2, 3), (3, 1)), values.reshape(2, 3))


@pytest.mark.parametrize("size", [(True,), (2.0,), np.array([2**62, 4]), (np.int64(2),)])
def test_sizes_of_tensors_are_plain_numbers(size):
    """Numbers of NumPy would overflow unseen: 2**62 * 4 elements are 0."""
    from deeplab.model.published import torch_file

    with pytest.raises(pickle.UnpicklingError, match="size, stride or offset is no number"):
        torch_file._tensor(torch_file._Storage(np.arange(6.0)), 0, size, (0,) * len(size))


def _write_pickle(path, pickled, storage=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x08tQ"  # of 8 numbers
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _view(storage, size, stride):
    """What rebuilds a vector at the start of a storage, in the language of pickles."""
    return REBUILD + b"(" + storage + b"K\x00(K" + bytes([size]) + b"t(K" + bytes([stride]) + b"ttR"


@pytest.mark.parametrize(
    "storage",
    [
        _view(STORAGE, 4, 2),  # every other number: in steps of its own, its last one is element 6
        STORAGE + b"}U\x06values" + _view(STORAGE, 4, 2) + b"sb",  # set as an attribute
        b"N",
    ],
)
def test_a_tensor_is_of_a_storage_of_the_archive(tmp_path, storage):
    numbers = np.arange(8, dtype="<f4")
    _write_pickle(tmp_path / "file.pth", b"}U\x01x" + _view(STORAGE, 4, 2) + b"s.", numbers.tobytes())
    np.testing.assert_array_equal(read_torch(tmp_path / "file.pth")["x"], numbers[::2])
    _write_pickle(tmp_path / "file.pth", b"}U\x01x" + _view(storage, 2, 1) + b"s.", numbers.tobytes())
    with pytest.raises(DataError, match="not a file of tensors"):
        read_torch(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "pickled",
    [
        b"}q\x00U\x05modelh\x00s.",  # a dictionary in itself
        b"}K\x00" + _view(STORAGE, 2, 1) + b"s.",  # a number for a name
    ],
)
def test_tensors_without_names_are_refused(tmp_path, pickled):
    _write_pickle(tmp_path / "file.pth", pickled, bytes(32))
    with pytest.raises(DataError, match=r"file\.pth: no tensors by name in it$"):
        read_torch(tmp_path / "file.pth")


def test_the_command_that_converts_a_file_is_quoted_for_a_shell(tmp_path):
    (tmp_path / "it's $(mine).pth").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        read_torch(tmp_path / "it's $(mine).pth")
    command = shlex.split(str(error.value).partition("installed: ")[2])
    assert (command[:2], command[3:]) == (["python", "-c"], [f"{tmp_path}/it's $(mine).pth", "NEW.pth"])


def test_a_pickle_does_not_make_a_large_memo(tmp_path):
    _write_pickle(tmp_path / "file.pth", b"}r\xff\xff\xff\x0f.")
    with pytest.raises(DataError, match="a memo of 268435455 entries"):
        read_torch(tmp_path / "file.pth")


def test_a_damaged_directory_of_an_archive_ends_in_one_line(tmp_path):
    _write_pickle(tmp_path / "file.pth", b"}.")
    content = (tmp_path / "file.pth").read_bytes()
    (tmp_path / "file.pth").write_bytes(content.replace(b"PK\1\2", b"PK\0\0"))
    assert family_of_weights(str(tmp_path / "file.pth")) == "torchvision"
    with pytest.raises(DataError, match=r"file\.pth: not a file of tensors .*Bad magic number for central"):
        read_tensors(tmp_path / "file.pth")


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


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_weights_of_all_floating_types_are_taken(dtype):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="dense")])
    transfer(model, {"dense/kernel": np.array([[0.5]]).astype(dtype)}, KERAS_NAMES, "file")
    assert model.get_weights()[0].tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.array([[2]]), "is of int64, and weights are floating-point numbers"),
        (np.array([[True]]), "is of bool"),
        (np.array([[1j]]), "is of complex128"),
        (np.array([["1"]]), "is of <U1"),
        (np.array([[None]]), "is of object"),
        (np.array([[2]], ml_dtypes.int4), "is of int4"),
        (np.array([[np.nan]]), "has numbers that are not finite"),
        (np.array([[1e300]]), "has numbers that are not finite as float32"),
    ],
)
def test_weights_are_finite_numbers(kernel, words):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="dense")])
    with pytest.raises(DataError, match=f"file: dense/kernel {words}"):
        transfer(model, {"dense/kernel": kernel}, KERAS_NAMES, "file")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 4, 1, 1), "one class, the default of segmentation-models-pytorch"),
        ((0, 4, 1, 1), "0 classes; networks here have 2 to 255"),
        ((256, 4, 1, 1), "256 classes; networks here have 2 to 255"),
        ((21,), r"classifier\.4\.weight has the shape \(21,\), and a classifier has four axes"),
        ((), r"classifier\.4\.weight has the shape \(\)"),
    ],
)
def test_classifiers_of_other_numbers_of_classes_are_refused(shape, words):
    tensors = {"backbone.16.0.weight": np.ones(1), "classifier.4.weight": np.ones(shape)}
    with pytest.raises(DataError, match=f"^file: {words}"):
        recognize(tensors, None, "file")


def test_a_folder_of_several_checkpoints_means_the_latest(tmp_path):
    for step, value in ((9, 1.0), (10, 2.0)):  # the last one by name is the ninth
        checkpoint = tf.train.Checkpoint(x=tf.Variable(value))
        checkpoint.write(f"{tmp_path}/model.ckpt-{step}")
    with pytest.raises(DataError, match=r"2 checkpoints; name one, for example .*model\.ckpt-9$"):
        read_tensors(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-10"\n')
    assert read_tensors(tmp_path)["x/.ATTRIBUTES/VARIABLE_VALUE"] == 2


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
