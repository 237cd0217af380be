"""Masks of Roboflow, Cityscapes and ADE20K become a data set with VOC's classes, or a line names the file."""

import csv

import numpy as np
import pytest
from conftest import write_mask
from converted import _classes, _image, _masks, _splits, _turned
from PIL import Image

from deeplab.data.source.formats.masks import CITYSCAPES_CLASSES, read_ade20k, read_cityscapes, read_roboflow
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import DataError


@pytest.fixture
def roboflow(tmp_path):
    folder = tmp_path / "export"
    for split, name in (("train", "a"), ("train", "b"), ("valid", "c"), ("test", "d")):
        _image(folder / split / f"{name}.jpg", (6, 4))
        write_mask(folder / split / f"{name}_mask.png", np.full((4, 6), 3))
        (folder / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, cat\n5, dog\n")
    return folder


def test_roboflows_masks(roboflow, tmp_path):
    write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    assert _classes(tmp_path / "voc") == ["background", "cat", "dog"]
    assert _splits(tmp_path / "voc") == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert all((mask == 1).all() for mask in _masks(tmp_path / "voc").values())


def test_roboflows_masks_that_are_refused(roboflow, tmp_path):
    write_mask(roboflow / "train" / "a_mask.png", np.full((4, 6), 4))
    with pytest.raises(DataError, match=r"a_mask\.png: value 4 without a class in .*_classes\.csv"):
        write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    write_mask(roboflow / "train" / "a_mask.png", np.zeros((4, 7)))
    with pytest.raises(DataError, match=r"a\.jpg: 6x4 pixels, but its annotation is for 7x4"):
        write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    (roboflow / "train" / "a_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 missing file: .*a_mask\.png \(of a\.jpg\)"):
        read_roboflow(roboflow)
    (roboflow / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, dog\n")
    with pytest.raises(DataError, match=r"valid/_classes\.csv: classes differ"):
        read_roboflow(roboflow)


def test_masks_and_images_that_exif_turns(roboflow, tmp_path):
    """A quarter turn is decided by the mask's size; a half turn cannot be decided."""
    _image(roboflow / "train" / "a.jpg", (6, 4), **_turned(6))
    _image(roboflow / "train" / "b.jpg", (4, 6), **_turned(6))
    write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    assert Image.open(next((tmp_path / "voc" / "JPEGImages").glob("b.*"))).size == (6, 4)
    assert Image.open(next((tmp_path / "voc" / "JPEGImages").glob("a.*"))).size == (6, 4)
    _image(roboflow / "train" / "a.jpg", (6, 4), **_turned(3))
    with pytest.raises(DataError, match=r"a\.jpg: EXIF turns it \(orientation 3\)"):
        write_voc(read_roboflow(roboflow), tmp_path / "other", 0.5)


def test_cityscapes_train_ids_or_ids(tmp_path, caplog):
    folder = tmp_path / "cityscapes"
    ids = np.array([[*CITYSCAPES_CLASSES.values()], [0] * 19, [*range(1, 7), *[33] * 13]], np.uint8)
    expected = np.array([[*range(19)], [255] * 19, [*[255] * 6, *[18] * 13]], np.uint8)
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        stem = f"ulm_{number:06d}_000019"
        _image(folder / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", (19, 3))
        (folder / "gtFine" / split / "ulm").mkdir(parents=True)
        write_mask(folder / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png", ids)
        if split == "val":
            write_mask(folder / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelTrainIds.png", expected)
    write_voc(read_cityscapes(folder), tmp_path / "voc", 0.5)
    assert _splits(tmp_path / "voc") == {"train": ["ulm_000000_000019"], "val": ["ulm_000001_000019"]}
    for mask in _masks(tmp_path / "voc").values():
        np.testing.assert_array_equal(mask, expected)
    assert _classes(tmp_path / "voc") == [*CITYSCAPES_CLASSES]
    assert "left out: 1 test: its labels are not public" in caplog.text


def test_ade20k_has_void_for_0(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        _image(folder / "images" / split / f"ADE_{split}.jpg", (3, 1))
        (folder / "annotations" / split).mkdir(parents=True)
        write_mask(folder / "annotations" / split / f"ADE_{split}.png", [[0, 1, 2]])
    with (folder / "objectInfo150.txt").open("w", newline="") as file:
        rows = [
            ("Idx", "Ratio", "Train", "Val", "Stuff", "Name"),
            (1, 0.2, 1, 1, 1, "wall"),
            (2, 0.1, 1, 1, 1, "building, edifice"),
        ]
        csv.writer(file, dialect="excel-tab").writerows(rows)
    write_voc(read_ade20k(folder), tmp_path / "voc", 0.5)
    assert _classes(tmp_path / "voc") == ["wall", "building"]
    assert _splits(tmp_path / "voc") == {"train": ["ADE_training"], "val": ["ADE_validation"]}
    assert _masks(tmp_path / "voc")["ADE_training"].tolist() == [[255, 0, 1]]
    (folder / "objectInfo150.txt").unlink()
    with pytest.raises(DataError, match="class names of ADE20K"):
        read_ade20k(folder)
