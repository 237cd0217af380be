"""What exported files take and return: sizes, types, layouts, and the same bytes from every machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import HANGS, ROOT
from tiny import register

import deeplab
from deeplab.commands.export.lite import TFLITE, TFLITE_INT8, write_tflite, write_tflite_int8
from deeplab.commands.export.onnx import write_onnx
from deeplab.commands.export.saved_model import Segmenter, write_saved_model
from deeplab.commands.settings import ANY_SIZE, Interface
from deeplab.errors import DataError, UsageError
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.head import AlignedUpsampling, Grid
from deeplab.model.settings import ModelConfig
from deeplab.training.metrics import confusion_counts

SIZE = (48, 80)
PIXELS = np.random.default_rng(1).integers(0, 256, (1, 6, 10, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
NAMES = ("background", "thing", "other")


def make_model():
    """A small network with all that exports treat on their own: dilated, depthwise, upsampled twice."""
    keras.backend.clear_session()  # the same layer names in each process
    keras.utils.set_random_seed(1)
    config = ModelConfig(NAMES, "tiny", output_stride=8, decoder=True, separable_aspp=True, separable_decoder=True)
    return build_deeplabv3(config, batch_norm_momentum=0.0)


@pytest.fixture(scope="module")
def model(tiny_backbone):
    """Weights of which each class occurs in the image."""
    model = make_model()
    model(PIXELS.astype(np.float32), training=True)  # batch normalization takes this image's statistics
    logits, head = model(PIXELS, training=False).numpy(), model.get_layer("logits")
    head.kernel.assign(head.kernel / logits.std((0, 1, 2)))
    head.bias.assign(-logits.mean((0, 1, 2)) / logits.std((0, 1, 2)))
    return model


@pytest.fixture(scope="module")
def expected(model):
    """Each output, from the Keras model itself."""
    logits = model(PIXELS, training=False).numpy()
    assert set(np.unique(logits.argmax(-1))) == {0, 1, 2}
    return {"logits": logits, "probabilities": tf.nn.softmax(logits).numpy(), "classes": logits.argmax(-1)}


def assert_outputs(outputs, expected, interface):
    """The interface's outputs, and no others; classes wherever two of them are not as good as equal."""
    assert list(outputs) == interface.outputs.split(",")
    best = np.sort(expected["logits"], -1)
    is_clear = best[..., -1] - best[..., -2] > 1e-3
    assert is_clear.mean() > 0.95
    for name, output in outputs.items():
        if name == "classes":
            assert output.dtype == np.uint8
            np.testing.assert_array_equal(output[is_clear], expected["classes"][is_clear])
        else:
            assert output.dtype == np.float32
            np.testing.assert_allclose(output, expected[name], atol=1e-3)


@pytest.mark.parametrize(
    "interface",
    [
        ANY_SIZE,
        Interface(outputs="logits", channels_first=True, input_type="float32"),
        Interface(SIZE, "probabilities", channels_first=True),
        Interface(SIZE, "classes", onnx_opset=13),
    ],
)
def test_onnx(model, expected, tmp_path, interface):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    write_onnx(Segmenter(model, interface), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    sides = list(interface.size or ("height", "width"))
    assert given.shape == [
        1 if interface.size else "batch",
        *([3, *sides] if interface.channels_first else [*sides, 3]),
    ]
    assert given.type == f"tensor({interface.input_type.replace('float32', 'float')})"
    written = onnx.load(tmp_path / "model.onnx")
    assert written.opset_import[0].version == interface.onnx_opset
    operators = {node.op_type for node in written.graph.node}
    assert not operators & {"SpaceToDepth", "DepthToSpace", "Loop"}
    if interface.size:
        assert not operators & {"Shape", "Range", "Where"}  # nothing is left that depends on a size

    pixels = PIXELS.transpose(0, 3, 1, 2) if interface.channels_first else PIXELS
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": pixels.astype(interface.input_type)}), strict=True))
    if interface.channels_first:
        outputs = {name: each.transpose(0, 2, 3, 1) if each.ndim == 4 else each for name, each in outputs.items()}
    assert_outputs(outputs, expected, interface)


def test_lite_of_a_fixed_size_has_nothing_dynamic(model, expected, tmp_path):
    interface = Interface(SIZE, "logits", "float32")
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    write_tflite(Segmenter(model, interface), tmp_path)
    interpreter = litert.Interpreter(str(tmp_path / TFLITE))
    assert not any(-1 in tensor["shape_signature"] for tensor in interpreter.get_tensor_details())
    operators = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} < operators
    assert not any(name.startswith(("SPACE_TO_BATCH", "BATCH_TO_SPACE", "SHAPE", "WHILE")) for name in operators)
    outputs = interpreter.get_signature_runner()(images=PIXELS.astype(interface.input_type))
    assert_outputs({name: outputs[name] for name in interface.outputs.split(",")}, expected, interface)


@pytest.mark.parametrize("size", [None, (80, 96)])
def test_an_int8_network_computes_in_integers_and_close_to_the_model(tmp_path, size):
    """A small one whose classes are the three colours: eight bits are too few for deep ones of random weights."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    images = keras.Input((None, None, 3))
    features = keras.layers.Rescaling(1 / 255)(images)
    features = AtrousConv2D(32, 3, strides=2, padding="same", activation="relu", name="strided")(features)
    logits = AtrousConv2D(3, 3, padding="same", dilation_rate=2, name="dilated")(features)
    model = keras.Model(images, AlignedUpsampling(Grid(2, 1), name="upsampled")(logits, images))
    by_color = np.eye(3)[np.arange(32) % 3]  # features r g b r g b ...; logits are their sums over a neighbourhood
    model.get_layer("strided").kernel.assign(np.broadcast_to(by_color.T / 9, (3, 3, 3, 32)))
    model.get_layer("dilated").kernel.assign(np.broadcast_to(by_color, (3, 3, 32, 3)))
    photo = np.random.default_rng(1).integers(0, 256, (10, 12, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    write_tflite_int8(Segmenter(model, Interface(size, "classes")), tmp_path, [photo, photo[::-1, ::-1]])
    interpreter = litert.Interpreter(str(tmp_path / TFLITE_INT8))
    (pixels,) = interpreter.get_input_details()
    assert (pixels["dtype"], pixels["quantization"]) == (np.uint8, (1.0, 0))
    tensors = interpreter.get_tensor_details()
    assert {each["dtype"] for each in tensors if 32 in each["shape"]} <= {np.int8, np.int32}  # int32: biases
    if size:
        assert {each["dtype"] for each in tensors} <= {np.uint8, np.int8, np.int32, np.int64}
    for image in [photo] if size else [photo, photo[5:, 10:], np.tile(photo, (3, 4, 1))]:
        result = interpreter.get_signature_runner()(images=image[np.newaxis])["classes"]
        assert result.shape == (1, *image.shape[:2]) and result.dtype == np.uint8
        classes = model(image[np.newaxis].astype(np.float32)).numpy().argmax(-1)
        agreement = confusion_counts(classes, result, 3)
        assert (np.diag(agreement) / agreement.sum(1) > 0.9).all()


def test_the_saved_model_of_a_fixed_size(model, tmp_path):
    config = ModelConfig(NAMES)
    write_saved_model(Segmenter(model, Interface(SIZE)), config, "ckpt-1", tmp_path)
    default = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert default.structured_input_signature[1] == {"images": tf.TensorSpec([1, *SIZE, 3], tf.uint8, "images")}
    assert default.structured_outputs["classes"].shape == [1, *SIZE]
    assert json.loads((tmp_path / "deeplab.json").read_text())["input_size"] == list(SIZE)
    loaded = deeplab.load(tmp_path)
    assert loaded.input_size == SIZE
    of_any_size = deeplab.api.Model.from_keras(model, NAMES)
    np.testing.assert_array_equal(loaded.segment(PIXELS[0]), of_any_size.segment(PIXELS[0]))
    for other in (PIXELS[0, 1:], PIXELS.repeat(2, 0)):
        with pytest.raises(DataError, match=r"this export takes one image of \[48, 80, 3\] at a time"):
            loaded.segment(other)


def test_images_are_resized_to_the_fixed_size():
    assert Interface((4, 6)).fitted(np.full((9, 5, 3), 7, np.uint8)).tolist() == np.full((4, 6, 3), 7).tolist()
    np.testing.assert_array_equal(ANY_SIZE.fitted(PIXELS[0]), PIXELS[0])


def test_a_size_is_two_numbers():
    with pytest.raises(UsageError, match=r"--input_size=3,4,5: give HEIGHT,WIDTH"):
        Interface((3, 4, 5))


@pytest.mark.slow
def test_another_process_with_other_kernels_writes_the_same_bytes(tiny_backbone, tmp_path):
    """tf2onnx's order of names follows Python's hashes, and the training step's convolutions the processor."""
    pytest.importorskip("tf2onnx")
    write_onnx(Segmenter(make_model()), tmp_path / "here.onnx")
    is_on = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "PYTHONHASHSEED": "7",
        "TF_ENABLE_ONEDNN_OPTS": str(int(not is_on)),
    }
    command = [sys.executable, "-m", "test_export_interface", str(tmp_path / "there.onnx")]
    subprocess.run(command, check=True, timeout=HANGS, env=environment)
    assert (tmp_path / "there.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()


if __name__ == "__main__":
    register()
    write_onnx(Segmenter(make_model()), Path(sys.argv[1]))
