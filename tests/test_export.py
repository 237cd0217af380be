"""Exports give the same results as the model, without this package; and the package as a library."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import run
from PIL import Image

import deeplab
from deeplab.commands.export.lite import TFLITE, write_tflite
from deeplab.commands.export.onnx import write_onnx
from deeplab.commands.export.saved_model import Segmenter
from deeplab.data.source.images import read_image
from deeplab.errors import DataError, UsageError
from deeplab.labels import palette
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.run.run_folder import load_model, record_run

pytestmark = pytest.mark.slow

COLORS = ("", "#0a141e", "")
CONFIG = ModelConfig(("background", "thing", "other"), backbone="mobilenet_v2", class_colors=COLORS)

SERVE = """
import sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
result = serve(image_bytes=tf.constant([open(sys.argv[2], "rb").read()]))
assert not any(name.startswith("deeplab") for name in sys.modules)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in result.items()})
"""


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((131, 97), Image.Resampling.NEAREST).save(path)
    return path


def _pixels(jpeg):
    return read_image(jpeg)


@pytest.fixture(scope="module")
def model_dir(jpeg, tmp_path_factory):
    """A run with random weights, scaled so that each class occurs in the image."""
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(1)
    model = build_deeplabv3(CONFIG, batch_norm_momentum=0.0)
    image = _pixels(jpeg)[np.newaxis].astype(np.float32)
    model(image, training=True)  # batch normalisation takes this image's statistics
    logits, head = model(image, training=False).numpy(), model.get_layer("logits")
    head.kernel.assign(head.kernel / logits.std((0, 1, 2)))
    head.bias.assign(-logits.mean((0, 1, 2)) / logits.std((0, 1, 2)))
    record_run(folder, CONFIG, "")
    tf.train.Checkpoint(model=model).save(str(folder / "checkpoints" / "best" / "ckpt"))
    return folder


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "export"
    run("-m", "deeplab.export", f"--model_dir={model_dir}", f"--export_dir={folder}", "--keras")
    return folder


def _expected(model_dir, images):
    """Probabilities from the Keras model itself, for uint8 images [batch, height, width, 3].

    Its image pooling has seen one image, so that its variance is 0: rounding counts 300 times there.
    """
    model, _, _ = load_model(model_dir)
    logits = tf.function(lambda batch: model(batch, training=False))(tf.cast(images, tf.float32))
    return tf.nn.softmax(logits).numpy()


def _assert_same_classes(classes, expected):
    """Wherever the model's two likeliest classes are not as good as equal; there, rounding decides."""
    likeliest = np.sort(expected, -1)
    clear = likeliest[..., -1] - likeliest[..., -2] > 5e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(classes[clear], expected.argmax(-1)[clear])


def test_another_process_serves_it_with_only_tensorflow(model_dir, exported, jpeg, tmp_path):
    command = [sys.executable, "-c", SERVE, str(exported), str(jpeg), str(tmp_path / "served.npz")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=900)
    served = np.load(tmp_path / "served.npz")
    expected = _expected(model_dir, _pixels(jpeg)[np.newaxis])
    assert served["classes"].shape == (1, 97, 131)
    assert set(np.unique(served["classes"])) == {0, 1, 2}
    np.testing.assert_allclose(served["probabilities"], expected, atol=2e-3)
    _assert_same_classes(served["classes"], expected)


def test_it_describes_itself(exported):
    description = json.loads((exported / "deeplab.json").read_text())
    assert description["class_names"] == list(CONFIG.class_names)
    assert description["palette"] == palette()[:3].tolist()
    assert description["class_colors"] == [*COLORS]
    assert description["checkpoint"].endswith("ckpt-1")
    assert description["void"] == 255


def test_keras_loads_it_to_train_on(model_dir, exported, jpeg):
    image = _pixels(jpeg)[np.newaxis]
    loaded = keras.models.load_model(exported / "model.keras")
    assert len(loaded.trainable_variables) > 100
    np.testing.assert_allclose(tf.nn.softmax(loaded(image)), _expected(model_dir, image), atol=2e-3)


def test_an_export_is_not_overwritten(model_dir, exported):
    done = run("-m", "deeplab.export", f"--model_dir={model_dir}", f"--export_dir={exported}", expect=2)
    assert done.stderr.splitlines()[-1].endswith("exists already; choose another folder")


def test_lite_formats_give_the_models_classes(model_dir, tmp_path, jpeg):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    segmenter = Segmenter(load_model(model_dir)[0])
    write_tflite(segmenter, tmp_path)
    image = _pixels(jpeg)[np.newaxis]
    runner = litert.Interpreter(str(tmp_path / TFLITE)).get_signature_runner()
    _assert_same_classes(runner(images=image)["classes"], _expected(model_dir, image))


def test_onnx_gives_the_models_classes(model_dir, tmp_path, jpeg):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    write_onnx(Segmenter(load_model(model_dir)[0]), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    image = _pixels(jpeg)[np.newaxis]
    classes = session.run(["classes"], {"images": image})[0]
    _assert_same_classes(classes, _expected(model_dir, image))


def test_runs_and_exports_give_the_same_in_python(model_dir, exported, jpeg):
    image = _pixels(jpeg)
    expected = _expected(model_dir, image[np.newaxis])[0]
    for folder in (model_dir, str(exported)):
        model = deeplab.load(folder)
        assert model.class_names == CONFIG.class_names
        assert model.class_names.colors == COLORS
        np.testing.assert_allclose(model.probabilities(image), expected, atol=2e-3)
        _assert_same_classes(model.segment(image), expected)
        assert model.segment(np.stack([image, image])).shape == (2, 97, 131)
        with pytest.raises(DataError, match=r"an image of float32 \[97, 131, 3\]: uint8 RGB .* is needed"):
            model.segment(image.astype(np.float32))


def test_an_export_takes_no_other_weights_stride_or_views(exported):
    for arguments in ({"checkpoint": "ckpt-1"}, {"output_stride": 8}, {"inference": deeplab.Inference(flip=True)}):
        with pytest.raises(UsageError, match="an export takes no checkpoint, output_stride, scales, flip or window"):
            deeplab.load(exported, **arguments)


def test_predict_takes_a_run_or_an_export(model_dir, exported, jpeg, tmp_path):
    masks = []
    for folder in (model_dir, exported):
        output = tmp_path / folder.name
        run("-m", "deeplab.predict", f"--model_dir={folder}", f"--output_dir={output}", jpeg)
        masks.append(np.array(Image.open(output / "masks" / f"{jpeg.stem}.png")))
    np.testing.assert_array_equal(*masks)


def test_a_folder_that_is_neither_is_rejected(tmp_path):
    with pytest.raises(DataError, match=r"model\.json: no such file"):
        deeplab.load(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(DataError, match="an export; name the folder of the run"):
        load_model(tmp_path)
    (tmp_path / "deeplab.json").write_text("{}")
    with pytest.raises(DataError, match="not the folder of an export"):
        deeplab.load(tmp_path)


def test_importing_the_package_does_not_import_tensorflow():
    check = "import sys, deeplab; assert 'tensorflow' not in sys.modules; assert 'load' in dir(deeplab)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = deeplab.lode
