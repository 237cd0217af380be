"""The pictures that the command line names, and the names under which their masks are written."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_mask
from PIL import Image

from deeplab.commands import predict
from deeplab.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.tif", "._a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folders_images_are_found_by_their_endings_without_hidden_files(folder):
    names = [(name, path.name) for name, path in predict.named_images([str(folder)])]
    assert names == [("a", "a.PNG"), ("b", "b.jpg"), ("c", "c.tif")]


def test_a_pattern_matches_no_hidden_files_either(folder):
    assert [name for name, _ in predict.named_images([f"{folder}/*.jpg"])] == ["b"]
    with pytest.raises(DataError, match="no pictures there"):
        predict.named_images([f"{folder}/*.webp"])


def test_standard_input_is_called_stdin(folder):
    assert [name for name, _ in predict.named_images(["-", str(folder / "b.jpg")])] == ["stdin", "b"]


def test_two_images_of_one_name_and_no_images_are_rejected(folder):
    with pytest.raises(UsageError, match=r"b: two images of this name .*b\.jpg and .*b\.png"):
        predict.named_images([str(folder / "b.jpg"), str(folder / "b.png")])
    with pytest.raises(UsageError, match="name at least one image"):
        predict.named_images([])


def test_subfolders_are_kept_and_what_is_no_image_is_said(folder, caplog):
    """As two days of a camera that counts from 0, with phones' HEIC and a film among them."""
    for name in ("day1/img_0.jpg", "day2/img_0.jpg", "day2/IMG_1.HEIC", "day2/film.mp4", "day1/README", ".git/x.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "out").mkdir()
    (folder / "out" / "mask.png").touch()
    names = [name for name, _ in predict.named_images([str(folder)], folder / "out")]
    assert names == ["a", "b", "c", "day1/img_0", "day2/img_0"]
    (record,) = caplog.records
    assert record.message.endswith("1 .heic, 1 .mp4, 1 .txt, 1 without an ending")


def test_images_without_a_true_mask_are_segmented_and_listed(tmp_path, caplog):
    """`a` has a mask, `b` none, and that of `c` is of another size."""
    caplog.set_level(logging.INFO)
    for name in "abc":
        Image.new("RGB", (30, 20)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "truth").mkdir()
    write_mask(tmp_path / "truth" / "a.png", np.zeros((20, 30)))
    write_mask(tmp_path / "truth" / "c.png", np.zeros((20, 20)))
    model = SimpleNamespace(class_names=("one", "two"), segment=lambda image: np.ones(image.shape[:2], np.uint8))
    wanted = predict.PredictSettings(model_dir=tmp_path, output_dir=tmp_path / "out", truth_dir=tmp_path / "truth")
    images = [(name, tmp_path / f"{name}.jpg") for name in "abc"]
    with pytest.raises(DataError, match=r"b\.png: no such file; 2 of 3 images without a true mask beside them$"):
        predict.segment(images, model, wanted, tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir()) == ["a", "b", "c"]
    assert [path.stem for path in (tmp_path / "out" / "side_by_side").iterdir()] == ["a"]
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == [
        f"{tmp_path / 'truth' / 'b.png'}: no such file",
        f"{tmp_path / 'truth' / 'c.png'}: 20x20 pixels, its image is 30x20",
    ]
    assert "3 of 3 images segmented" in caplog.text
