"""COCO panoptic and Segments.ai, whose masks are PNGs of numbers of segments: lines that name what is damaged."""

import json

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError

SEGMENTS = [{"id": 66051, "category_id": 7}, {"id": 1, "category_id": 8}]
RGB = np.zeros((2, 3, 3), np.uint8)
RGB[0] = (3, 2, 1)  # 3 + 256 * 2 + 65536 * 1
RGB[1, 0] = (1, 0, 0)


def _panoptic(folder, masks=None, **changes):
    """Images `a` of train and `b` of val; `changes` replace fields of the annotation of `a`."""
    folder = folder / "coco"
    for number, (name, split) in enumerate((("a", "train2017"), ("b", "val2017"))):
        places = [folder / split, folder / "annotations" / f"panoptic_{split}"]
        for place, pixels in zip(places, (np.zeros_like(RGB), RGB if masks is None or number else masks), strict=True):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{name}.png")
        annotation = {"image_id": 5, "file_name": f"{name}.png", "segments_info": SEGMENTS}
        content = {
            "images": [{"id": 5, "file_name": f"{name}.jpg"}],
            "annotations": [annotation | ({} if number else changes)],
            "categories": [{"id": 7, "name": "wall"}, {"id": 8, "name": "sky"}],
        }
        (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return folder


def test_panoptic_has_no_background_and_keeps_splits(tmp_path):
    masks = masks_of(read_format(_panoptic(tmp_path), "panoptic_dir", ""), tmp_path)
    assert (tmp_path / "voc" / "class_names.txt").read_text() == "sky\nwall\n"
    assert masks["a"].tolist() == masks["b"].tolist() == [[1, 1, 1], [0, 255, 255]]
    assert (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").read_text() == "b\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segments_info": SEGMENTS[:1]}, r"a\.png: pixels of 1 segments that the annotation lacks \(1\)"),
        ({"segments_info": [{"id": 1, "category_id": 9}]}, r"annotations\[0\]: unknown category 9"),
        ({"segments_info": [{"id": "1", "category_id": 7}]}, r"annotations\[0\]: id: '1'"),
        ({"segments_info": None}, r"annotations\[0\]: segments_info: None"),
        ({"image_id": 6}, r"annotations\[0\]: no field 'file_name'"),
        ({"file_name": "c.png"}, r"missing file: \S*panoptic_train2017/c\.png"),
        ({"file_name": "../../train2017/a.png"}, None),
        ({"masks": np.zeros((2, 4, 3), np.uint8)}, r"a\.png: 3x2 pixels, but its annotation is for 4x2"),
        ({"masks": np.zeros((2, 3), bool)}, r"a\.png: a PNG of mode 1; numbers of segments are in RGB"),
    ],
)
def test_damaged_panoptic_files_are_named(tmp_path, changes, words):
    folder = _panoptic(tmp_path, **changes)
    if words is None:  # only the folder of the PNGs counts
        assert set(masks_of(read_format(folder, "panoptic_dir", ""), tmp_path)) == {"a", "b"}
        return
    with pytest.raises(DataError, match=words):
        masks_of(read_format(folder, "panoptic_dir", ""), tmp_path)


@pytest.mark.parametrize("content", [[], {"categories": [1]}, {"categories": [], "images": []}])
def test_json_that_is_not_panoptic_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"contains no annotations/panoptic_\*\.json"):
        read_format(tmp_path, "panoptic_dir", "")
    (tmp_path / "panoptic_a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"panoptic_a\.json: not COCO panoptic"):
        read_format(tmp_path, "panoptic_dir", "")


def _release(folder, pixels=RGB, **changes):
    bitmap = {"segmentation_bitmap": {"url": "http://x/a"}, "annotations": SEGMENTS}
    samples = [
        {
            "name": f"{name}.jpg",
            "attributes": {"image": {"url": f"http://x/{name}.png?y"}},
            "labels": {"ground-truth": {"label_status": status, "attributes": bitmap | changes}},
        }
        for name, status in (("a", "LABELED"), ("b", "REVIEWED"), ("c", "REJECTED"))
    ]
    samples.append({**samples[0], "name": "d.jpg", "labels": {"ground-truth": None}})
    categories = [{"id": 7, "name": "wall"}, {"id": 8, "name": "sky"}]
    dataset = {"samples": samples, "task_attributes": {"categories": categories}}
    for name in "ab":
        Image.fromarray(np.zeros_like(RGB)).save(folder / f"{name}.png")
        Image.fromarray(pixels).save(folder / f"{name}_label_ground-truth.png")
    (folder / "release.json").write_text(json.dumps({"name": "v1", "dataset": dataset}))
    return folder


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(RGB, [[1, 1, 1], [2, 0, 0]]), (np.array([[1, 1, 0], [0, 0, 1]], np.uint16), [[2, 2, 0], [0, 0, 2]])],
)
def test_segments_ais_bitmaps_in_colors_and_in_gray(tmp_path, pixels, expected):
    dataset = read_format(_release(tmp_path, pixels), "segments_json", "release.json")
    assert dataset.left_out == {
        "sample without a bitmap (rejected)": ["c.jpg"],
        "sample without a bitmap (unlabeled)": ["d.jpg"],
    }
    assert dataset.examples[0].draw(2, 3).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": SEGMENTS[:1]}, r"ground-truth\.png: pixels of 1 segments"),
        ({"annotations": [{"id": 1, "category_id": 9}]}, r"sample a\.jpg: unknown category 9"),
        ({"annotations": 3}, r"sample a\.jpg: annotations: 3"),
    ],
)
def test_damaged_releases_are_named(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        masks_of(read_format(_release(tmp_path, **changes), "segments_json", "release.json"), tmp_path)
