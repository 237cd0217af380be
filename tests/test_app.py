"""What the page of deeplab.app shows of a picture."""

import numpy as np
import pytest
from PIL import Image

from deeplab.commands.app import program as app
from deeplab.commands.app.trial import Trial
from deeplab.errors import DataError, UsageError
from deeplab.labels import palette
from deeplab.model.inference import Inference
from deeplab.view import pictures

NAMES = ("background", "cat", "dog")
MASK = np.array([[0, 1, 1, 2], [0, 1, 1, 0]], np.uint8)
PROBABILITIES = np.where(MASK[..., None] == np.arange(3), 0.5, 0.25).astype(np.float32)
IMAGE = np.full((2, 4, 3), 100, np.uint8)


class FakeModel:
    """Segments each picture as `MASK`."""

    class_names = NAMES

    def classes_and_probabilities(self, image):
        assert np.array_equal(image, IMAGE)
        return MASK, PROBABILITIES


@pytest.fixture
def segmenter(tmp_path, monkeypatch):
    """... of pictures of at most 8 pixels; notes the settings with which models are loaded."""
    loaded = []
    monkeypatch.setattr(app, "_load", lambda *settings: loaded.append(settings) or FakeModel())
    made = app.Segmenter(tmp_path / "run", app.AppSettings(max_pixels=8), 16, Inference(scales=(1.0,)), tmp_path)
    return made, loaded


@pytest.fixture
def trial(tmp_path):
    return Trial.of(tmp_path, "photo", IMAGE, MASK, PROBABILITIES, NAMES)


def test_shares_and_layers(trial):
    assert trial.texts == {1: "cat 50.0%", 0: "background 37.5%", 2: "dog 12.5%"}
    assert trial.foreground == [1, 2]
    _, layers, colors = trial.layers([2])
    ((layer, text),) = layers
    assert text == "dog 12.5%"
    assert np.array_equal(layer, MASK == 2)
    assert colors == {"dog 12.5%": "#008000"}  # VOC's third colour


def test_probabilities(trial):
    assert trial.at(3, 0) == {"background": 0.25, "cat": 0.25, "dog": 0.5}
    assert trial.at(99, -1) == trial.at(3, 0)
    black_to_white = np.array(pictures.heat_map(np.array([[0.0, 0.35, 1.0]])))
    assert black_to_white.tolist() == [[[0, 0, 0], [150, 10, 70], [255, 255, 230]]]
    assert np.array_equal(np.array(trial.heat_map(1)), np.array(pictures.heat_map(PROBABILITIES[..., 1])))


def test_large_picture_is_reduced_but_its_mask_is_not(tmp_path):
    mask = np.arange(2 * 2561).reshape(2, 2561).astype(np.uint8) % 3
    trial = Trial.of(tmp_path, "wide", np.zeros((2, 2561, 3), np.uint8), mask, np.eye(3, dtype=np.float32)[mask], NAMES)
    image, layers, _ = trial.layers([1])
    assert image.shape == (1, 854, 3)
    assert np.array_equal(layers[0][0], mask[::3, ::3] == 1)
    assert np.array_equal(np.array(Image.open(trial.save_mask())), mask)


def test_files_to_download(trial):
    assert np.array_equal(np.array(Image.open(trial.save_mask())), MASK)
    overlay = np.array(Image.open(trial.save_overlay([1], 0.5)))
    assert np.array_equal(overlay[0, 3], IMAGE[0, 3])  # dog is not shown
    assert np.array_equal(overlay[0, 1], np.round(0.5 * palette()[1] + 50))


def test_the_model_is_loaded_with_what_is_chosen_on_the_page(segmenter, tmp_path):
    segment, loaded = segmenter
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    segment(str(tmp_path / "photo.png"))
    segment(str(tmp_path / "photo.png"), 8, [1.5, 0.5], True)
    assert loaded == [
        (tmp_path / "run", None, 16, Inference(scales=(1.0,))),
        (tmp_path / "run", None, 8, Inference(scales=(0.5, 1.5), flip=True)),
    ]
    with pytest.raises(UsageError, match="choose at least one scale"):
        segment(str(tmp_path / "photo.png"), 8, [], False)


def test_page(segmenter, tmp_path):
    page = pytest.importorskip("deeplab.commands.app.page", reason="needs Gradio")
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    trial, status, *_ = page._segment(segmenter[0], str(tmp_path / "photo.png"), 0, 0.6)
    assert np.array_equal(np.array(Image.open(trial.save_mask())), MASK)
    assert status == "photo: 4x2 pixels"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    trial, status, *_ = page._segment(segmenter[0], str(tmp_path / "broken.png"), 0, 0.6)
    assert trial is None
    assert status.startswith("broken.png: cannot be read as an image")


def test_too_many_pixels(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(path)
    with pytest.raises(DataError, match=r"^photo.png: 4x2 pixels, more than --max_pixels=7$"):
        app.read_picture(path, 7)
