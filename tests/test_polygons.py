"""Outlines of labelme and COCO become masks with the pixels that were drawn, in a data set that train.py takes."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab.data import polygons
from deeplab.data.classes import read_classes
from deeplab.data.shards import ShardSettings, prepare
from deeplab.errors import DataError, UsageError


def _square(label, left, top, side):
    corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
    return {"label": label, "shape_type": "polygon", "points": corners}


@pytest.fixture
def labelme_dir(tmp_path):
    """Two images: an upright PNG, and a JPEG that EXIF turns by 90 degrees; outlines as labelme shows them, upright."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    Image.new("RGB", (40, 30), "teal").save(folder / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "teal").save(folder / "two.jpg", exif=exif)
    shapes = [
        _square("wheel", 5, 5, 10),
        {"label": "body", "shape_type": "rectangle", "points": [[10, 10], [30, 20]]},
        {"label": "__ignore__", "shape_type": "circle", "points": [[35, 25], [38, 25]]},
    ]
    (folder / "one.json").write_text(json.dumps({"imagePath": "one.png", "shapes": shapes}))
    (folder / "two.json").write_text(json.dumps({"imagePath": "two.jpg", "shapes": [_square("body", 0, 0, 39)]}))
    return folder


def test_labelme_becomes_a_data_set_that_can_be_prepared(labelme_dir, tmp_path):
    polygons.write_voc(polygons.read_labelme(labelme_dir), tmp_path / "voc", val_share=0.5)
    names = read_classes(tmp_path / "voc" / "class_names.txt").names
    assert names == ("background", "body", "wheel")
    splits = [
        prepare(ShardSettings(voc_dir=tmp_path / "voc"), tmp_path / "shards", name, names) for name in ("train", "val")
    ]
    assert [split.num_examples for split in splits] == [1, 1]
    one, two = (np.array(Image.open(tmp_path / "voc" / "SegmentationClass" / f"{name}.png")) for name in ("one", "two"))
    expected = np.zeros((30, 40), np.uint8)
    expected[5:16, 5:16] = 2
    expected[10:21, 10:31] = 1  # drawn later, so in front
    np.testing.assert_array_equal(one[:, :31], expected[:, :31])
    assert (one[25, 33:38] == 255).all()
    assert abs((one == 255).sum() - np.pi * 3.5**2) < 8
    assert two.shape == (40, 30)  # turned
    assert (two == 1).all()


def test_coco_polygons_and_run_lengths(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (6, 4)).save(tmp_path / "images" / f"{name}.jpg")
    counts = [4, 3, 5, 2, 10]  # column by column: column 1 rows 0-2, column 3 rows 0-1
    annotations = [
        {"image_id": 1, "category_id": 7, "area": 5, "segmentation": {"size": [4, 6], "counts": counts}},
        {"image_id": 1, "category_id": 9, "area": 24, "segmentation": [[0, 0, 5, 0, 5, 3, 0, 3]]},
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 7, "name": "small"}, {"id": 9, "name": "large"}],
        "annotations": annotations,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    polygons.write_voc(polygons.read_coco(tmp_path / "coco.json", tmp_path / "images"), tmp_path / "voc", 0.5)
    expected = np.ones((4, 6), np.uint8)
    expected[0:3, 1] = expected[0:2, 3] = 2  # the smaller lies in front
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "voc" / "SegmentationClass" / "a.png")), expected)
    assert (np.array(Image.open(tmp_path / "voc" / "SegmentationClass" / "b.png")) == 0).all()
    annotations[0]["segmentation"]["counts"] = "compressed"
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="compressed run lengths"):
        polygons.read_coco(tmp_path / "coco.json", tmp_path / "images")


def test_what_cannot_be_read_is_named(labelme_dir, tmp_path):
    drawings = polygons.read_labelme(labelme_dir)
    with pytest.raises(UsageError, match="exists already"):
        polygons.write_voc(drawings, labelme_dir, 0.5)
    with pytest.raises(DataError, match="two are needed"):
        polygons.write_voc(drawings[:1], tmp_path / "voc", 0.5)
    (labelme_dir / "two.jpg").unlink()
    with pytest.raises(DataError, match=r"two\.jpg: cannot be read as an image"):
        polygons.write_voc(drawings, tmp_path / "voc", 0.5)
    assert not (tmp_path / "voc").exists()
    bad = {"imagePath": "one.png", "shapes": [{"label": "x", "shape_type": "line", "points": [[0, 0], [1, 1]]}]}
    (labelme_dir / "one.json").write_text(json.dumps(bad))
    with pytest.raises(DataError, match=r"one\.json: .* shape 'line' of 2 points"):
        polygons.read_labelme(labelme_dir)
    with pytest.raises(DataError, match=r"no \*\.json"):
        polygons.read_labelme(tmp_path / "nowhere")
