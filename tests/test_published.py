"""Published networks: their logits (golden/), what their tensors are recognized as, and what is refused."""

import ast
import hashlib
import sys
from dataclasses import replace

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN

from deeplab.errors import DataError, UsageError
from deeplab.model.backbone import atrous_backbone, family_of_weights
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.published.files import read_tensors
from deeplab.model.published.names import KERAS_NAMES, torch_backbone
from deeplab.model.published.recognition import recognize
from deeplab.model.published.transfer import leaves, transfer
from deeplab.model.settings import ModelConfig

sys.path.insert(0, str(GOLDEN))
from draw import draw_torch, image
from research_deeplab import Network

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
