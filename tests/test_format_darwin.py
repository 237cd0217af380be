"""V7's annotations: names, splits, what is left out, and lines that name what is damaged."""

import json

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError


def _item(tmp_path, *annotations):
    folder = tmp_path / "v7"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    square = [{"x": 1, "y": 1}, {"x": 4, "y": 1}, {"x": 4, "y": 4}, {"x": 1, "y": 4}]
    polygon = {"id": "p", "name": "cat", "polygon": {"paths": [square]}, "bounding_box": {}}
    for name, entries in (("a", annotations), ("b", [polygon])):
        Image.new("RGB", (8, 6)).save(folder / "images" / f"{name}.png")
        slots = [{"slot_name": "0", "width": 8, "height": 6}]
        content = {"item": {"name": f"{name}.png", "path": "/", "slots": slots}, "annotations": entries}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_v7s_boxes_ellipses_holes_and_what_is_left_out(tmp_path):
    ring = [[{"x": x, "y": y} for x, y in corners] for corners in ([(0, 0), (7, 0), (7, 5), (0, 5)],)]
    hole = [{"x": x, "y": y} for x, y in ((2, 2), (5, 2), (5, 4), (2, 4))]
    dataset = read_format(
        _item(
            tmp_path,
            {"name": "cat", "polygon": {"paths": [*ring, hole, hole[:2]]}, "bounding_box": {}},
            {"name": "dog", "bounding_box": {"x": 6.2, "y": 0, "w": 1, "h": 1}},
            {"name": "dog", "ellipse": {"angle": 0, "center": {"x": 1, "y": 1}, "radius": {"x": 1, "y": 1}}},
            {"name": "dog", "keypoint": {"x": 1, "y": 1}},
            {"name": "dog", "polygon": {"paths": [hole[:2]]}},
        ),
        "darwin_dir",
        "",
    )
    assert dataset.left_out == {
        "keypoint: covers no area, or of an unknown kind": ["a.json"],
        "polygon with fewer than 3 points": ["a.json"],
    }
    expected = np.ones((6, 8))
    expected[3, 3:5] = 0
    expected[:2, 6:8] = 2
    expected[:2, :2] = 2
    np.testing.assert_array_equal(dataset.examples[0].draw(6, 8), expected)


LAYER = {"dense_rle": [0, 40, 1, 8], "mask_annotation_ids_mapping": {"m": 1}, "total_pixels": 48}
MASKS = {"id": "m", "name": "cat", "mask": {"sparse_rle": None}}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"dense_rle": [0, 40, 1, 7]}, "its run lengths add up to 47 pixels, but the image is 8x6"),
        ({"dense_rle": [0, 40, 1]}, "dense_rle: an odd number of values"),
        ({"dense_rle": [0, -40, 1, 88]}, "a run of -40 pixels"),
        ({"dense_rle": [0, 1 << 40, 1, 88]}, "a run of 1099511627776 pixels"),
        ({"dense_rle": "0"}, "dense_rle: '0'"),
        ({"mask_annotation_ids_mapping": {"n": 1}}, "raster_layer: no mask has the id n"),
        ({"mask_annotation_ids_mapping": {"m": "1"}}, "m: '1'"),
        ({"dense_rle": [0, 30, 3, 2, 1, 8, 2, 8]}, "raster_layer: no mask has the value 2, 3"),
    ],
)
def test_a_damaged_raster_layer_is_named(tmp_path, layer, words):
    folder = _item(tmp_path, MASKS, {"name": "__raster_layer__", "raster_layer": LAYER})
    mask = read_format(folder, "darwin_dir", "").examples[0].draw(6, 8)
    assert (mask.ravel() == np.repeat([0, 1], (40, 8))).all()
    folder = _item(tmp_path, MASKS, {"name": "__raster_layer__", "raster_layer": {**LAYER, **layer}})
    with pytest.raises(DataError, match=rf"a\.json: .*{words}"):
        masks_of(read_format(folder, "darwin_dir", ""), tmp_path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "cat", "polygon": {"paths": [[1, 2, 3]]}}, "1 where an object belongs"),
        ({"name": "cat", "polygon": {"paths": 7}}, "paths: 7"),
        ({"name": "cat", "polygon": {"paths": [[{"x": 1, "y": 1}] * 2 + [{"x": 1e9, "y": 1}]]}}, "is far outside"),
        ({"name": "", "bounding_box": {"x": 1, "y": 1, "w": 1, "h": 1}}, "the label '' is empty"),
        (
            {"name": "cat", "ellipse": {"center": {"x": 1, "y": 1}, "radius": {"x": 0, "y": 1}}},
            "with the radii 0 and 1",
        ),
        (3, "annotation: 3"),
    ],
)
def test_a_damaged_annotation_of_v7_is_named(tmp_path, entry, words):
    with pytest.raises(DataError, match=rf"a\.json: .*{words}"):
        masks_of(read_format(_item(tmp_path, entry), "darwin_dir", ""), tmp_path)
