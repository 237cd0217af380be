"""The folder that deeplab.export writes: complete and equal to the model, or not there at all."""

import numpy as np
import pytest

from deeplab.commands.export import comparison, program
from deeplab.commands.settings import ANY_SIZE, Interface
from deeplab.data.shards.settings import SplitSettings
from deeplab.errors import DeepLabError, UsageError
from deeplab.run.settings import LoadSettings

IMAGE = np.zeros((4, 5, 3), np.uint8)


class _Zeros:
    """Stands for the model: class 0 everywhere."""

    interface = ANY_SIZE

    def segment(self, images):
        class Classes:
            def numpy(self):
                return np.zeros(images.shape[:3], np.uint8)

        return {"classes": Classes()}


@pytest.fixture
def export(monkeypatch, tmp_path):
    """Runs the program with a stand-in for the model; the SavedModel is an empty file."""

    def run(export_dir=tmp_path / "new" / "exported", **settings):
        wanted = {
            program.ExportSettings: program.ExportSettings(model_dir=tmp_path, export_dir=export_dir, **settings),
            Interface: ANY_SIZE,
            SplitSettings: SplitSettings(),
            LoadSettings: LoadSettings(),
        }
        monkeypatch.setattr(program.run_folder, "load_model", lambda *arguments: (None, None, "ckpt-1"))
        monkeypatch.setattr(program, "Segmenter", lambda model, interface: _Zeros())
        monkeypatch.setattr(program, "write_saved_model", lambda *arguments: (arguments[-1] / "saved_model.pb").touch())
        program.main(wanted, [])

    return run


def test_it_is_whole_and_nothing_is_beside_it(export, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "compare", lambda segmenter, folder, images: None)
    export()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["exported"]
    assert [path.name for path in (tmp_path / "new" / "exported").iterdir()] == ["saved_model.pb"]
    with pytest.raises(UsageError, match="exists already; choose another folder"):
        export()


@pytest.mark.parametrize("step", ["write_onnx", "compare"])
def test_a_failure_leaves_nothing(export, monkeypatch, tmp_path, step):
    def fail(*arguments):
        raise DeepLabError("no space left")

    monkeypatch.setattr(program, "_require_extras", lambda wanted: None)
    monkeypatch.setattr(program, "write_onnx", lambda segmenter, path: path.touch())
    monkeypatch.setattr(program, step, fail)
    with pytest.raises(DeepLabError, match="no space left"):
        export(onnx=True)
    assert not list((tmp_path / "new").iterdir())


def test_a_missing_extra_is_said_before_the_work(export, monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(program.importlib, "import_module", missing)
    for settings, module in (({"onnx": True}, "tf2onnx"), ({"tflite_int8": True}, r"ai_edge_litert\.interpreter")):
        with pytest.raises(UsageError, match=rf"{module} is not installed: pip install '\.\[export\]'"):
            export(**settings)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "fails"), [("model.onnx", True), ("model_int8.tflite", False)])
def test_a_float_format_that_differs_is_an_error(monkeypatch, tmp_path, name, fails, caplog):
    other = np.zeros((1, 4, 5), np.uint8)
    other[0, 0, 0] = 1  # of 20 pixels
    monkeypatch.setattr(comparison, "_written", lambda folder, interface: {name: lambda image: other})
    caplog.set_level("INFO")
    if fails:
        with pytest.raises(DeepLabError, match=r"model\.onnx: only 95\.00% of the pixels match the model's; nothing"):
            comparison.compare(_Zeros(), tmp_path, [IMAGE])
    else:
        comparison.compare(_Zeros(), tmp_path, [IMAGE])
    assert f"{name}: 95.0000 % of the pixels of 1 images match the model's" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "interface", "words"),
    [
        ({"tflite": True}, {"channels_first": True}, "--channels_first needs --onnx"),
        ({"tflite": True}, {"onnx_opset": 13}, "--onnx_opset needs --onnx"),
        ({}, {"outputs": "logits"}, "--outputs needs --onnx, --tflite or --tflite_int8"),
        ({"keras": True}, {"input_type": "float32"}, "--input_type needs --onnx, --tflite or --tflite_int8"),
    ],
)
def test_a_flag_about_a_format_that_is_not_written_is_refused(wanted, interface, words):
    with pytest.raises(UsageError, match=f"^{words}$"):
        program._refuse_ignored(program.ExportSettings(**wanted), Interface(**interface))
    program._refuse_ignored(program.ExportSettings(onnx=True), Interface(**interface))
