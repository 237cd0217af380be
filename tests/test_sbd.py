"""SBD's annotations as masks, and what trainaug is made of."""

import logging

import numpy as np
import pytest
import scipy.io
from conftest import write_mask
from PIL import Image

from deeplab.commands import sbd
from deeplab.data.source import voc
from deeplab.errors import DataError, UsageError


def _write_annotation(path, labels):
    segmentation = {"Boundaries": np.zeros((3, 1)), "Segmentation": labels, "CategoriesPresent": np.unique(labels)}
    scipy.io.savemat(path, {"GTcls": segmentation}, do_compression=True)


@pytest.fixture
def folders(tmp_path):
    """VOC with train a, val v; SBD with a, b, c and v; every image 4 x 6."""
    voc_dir, sbd_dir = tmp_path / "VOC2012", tmp_path / "sbd"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc_dir / folder).mkdir(parents=True)
    (sbd_dir / "cls").mkdir(parents=True)
    for index, name in enumerate("abcv"):
        Image.new("RGB", (6, 4)).save(voc_dir / "JPEGImages" / f"{name}.jpg")
        _write_annotation(sbd_dir / "cls" / f"{name}.mat", np.full((4, 6), index, np.uint8))
    for name in "av":
        write_mask(voc_dir / "SegmentationClass" / f"{name}.png", np.full((4, 6), 255))
    (voc_dir / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    (voc_dir / "ImageSets" / "Segmentation" / "val.txt").write_text("v\n")
    return sbd_dir, voc_dir, tmp_path / "masks"


def test_masks_are_vocs_own_else_sbds_and_never_those_of_val(folders, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    sbd_dir, voc_dir, mask_dir = folders
    sbd.write_masks(sbd_dir, voc_dir, mask_dir)
    assert "1 masks of VOC's train and 2 of SBD; of SBD's 4, 1 in VOC's val are left out, 1 are replaced" in caplog.text
    masks = {path.stem: np.array(Image.open(path)) for path in mask_dir.iterdir()}
    assert {name: np.unique(mask).tolist() for name, mask in masks.items()} == {"a": [255], "b": [1], "c": [2]}
    pairs = voc.pairs(voc_dir, "trainaug", mask_dir)
    assert [(pair.name, pair.mask) for pair in pairs] == [(name, mask_dir / f"{name}.png") for name in "abc"]
    with pytest.raises(UsageError, match="exists already"):
        sbd.write_masks(sbd_dir, voc_dir, mask_dir)


def test_trainaug_leaves_out_what_is_in_val_and_says_how_many(folders, caplog):
    """A folder as SegmentationClassAug is passed on holds val's masks, too; so may a list."""
    caplog.set_level(logging.INFO, "deeplab")
    _, voc_dir, mask_dir = folders
    mask_dir.mkdir()
    for name in "abcv":
        write_mask(mask_dir / f"{name}.png", np.zeros((4, 6)))
    assert voc.read_split(voc_dir, "trainaug", mask_dir) == ["a", "b", "c"]
    assert "trainaug: 3 images; 1 left out, since val has them" in caplog.text
    (voc_dir / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("c\nv\na\n")
    assert voc.read_split(voc_dir, "trainaug", mask_dir) == ["c", "a"]
    with pytest.raises(DataError, match="no such split"):
        (voc_dir / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
        voc.read_split(voc_dir, "trainaug")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: path.write_bytes(b"no matrix"), "not an annotation of SBD"),
        (lambda path: scipy.io.savemat(path, {"GTinst": 1}), "not an annotation of SBD"),
        (lambda path: _write_annotation(path, np.full((4, 6), 21, np.uint8)), "label 21, but VOC has 21 classes"),
        (lambda path: _write_annotation(path, np.full((4, 6), 0.5)), "not an 8-bit image"),
    ],
)
def test_bad_annotations_are_named_and_leave_no_folder(folders, content, reason):
    sbd_dir, voc_dir, mask_dir = folders
    content(sbd_dir / "cls" / "b.mat")
    with pytest.raises(DataError, match=rf"b\.mat: .*{reason}"):
        sbd.write_masks(sbd_dir, voc_dir, mask_dir)
    assert not mask_dir.exists()


def test_a_folder_without_annotations_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match=r"contains no cls/\*\.mat"):
        sbd.write_masks(tmp_path, folders[1], folders[2])
