"""Label Studio's annotations: names, splits, what is left out, and lines that name what is damaged."""

import json

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError


def _region(**value):
    return {"type": "brushlabels", "original_width": 8, "original_height": 6, "value": {"labels": ["a"], **value}}


def _tasks(tmp_path, *regions, **task):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    square = _region(x=0, y=0, width=50, height=50)
    content = [
        {
            "id": 7,
            "data": {"image": "/data/local-files/?d=my%20set/a.png"},
            "annotations": [{"result": regions}],
            **task,
        },
        {"id": 8, "data": {"text": "x", "image": "s3://bucket/b.png?x=1"}, "annotations": [{"result": [square]}]},
        {"id": 9, "data": {"image": "c.png"}, "annotations": []},
    ]
    (tmp_path / "export.json").write_text(json.dumps(content))
    return tmp_path


def test_label_studios_names_labels_and_what_is_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    regions = [
        {**_region(x=0, y=0, width=100, height=50), "id": "r"},
        {"id": "r", "type": "rectangle", "value": {"x": 0, "y": 0, "width": 100, "height": 50}},
        _region(x=50, y=50, width=0.5),
        _region(points=[[1, 1], [2, 2]]),
        {"id": ["r"], "type": "choices", "value": {"choices": ["sunny"]}},
        _region(x=0, y=50, width=100, height=50, labels=["b", "a"]),
    ]
    dataset = read_format(_tasks(tmp_path, *regions), "label_studio_json", "export.json")
    assert dataset.left_out == {
        "brushlabels: covers no area, or of an unknown kind": ["a.png"],
        "polygon with fewer than 3 points": ["a.png"],
        "region without a label": ["a.png"],
        "second label of a region": ["a.png"],
        "task without an annotation": ["task 9"],
    }
    assert [(example.name, example.num_objects) for example in dataset.examples] == [("my set/a", 2), ("b", 1)]
    masks = masks_of(dataset, tmp_path)
    np.testing.assert_array_equal(masks["my set/a"], np.repeat([1, 2], 3)[:, None] * np.ones((1, 8)))


BITS = f"{4 * 48:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))


def _packed(bits):
    bits = BITS + bits
    return [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]


WHITE = _packed(f"110{191:08b}{255:08b}")


def test_a_brush_of_one_run_is_the_whole_image(tmp_path):
    pytest.importorskip("pycocotools")
    masks = masks_of(read_format(_tasks(tmp_path, _region(rle=WHITE)), "label_studio_json", "export.json"), tmp_path)
    assert (masks["my set/a"] == 1).all()


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (_region(rle=_packed(f"110{190:08b}{255:08b}")), "a brush that was cut short"),
        (_region(rle=_packed(f"110{192:08b}{255:08b}")), "a brush with a run beyond its end"),
        (_region(rle=_packed(f"010{191:08b}{255:08b}")), "a brush with a run beyond its end"),
        (_region(rle=[0] * 6), "a brush that was cut short"),
        (_region(rle=[255] * 20), "a brush of 4,294,967,295 values, not 192"),
        (_region(rle=[256]), "a brush whose rle is no list of bytes"),
        (_region(rle=None), "a brush whose rle is no list of bytes"),
        (_region(points=[[1, 1], [2, 2], [3, None]]), r"points: None"),
        (_region(points=[[1, 1], [2, 2], [3]]), r"not enough values"),
        (_region(points=[[1, 1], [2, 2], [1e9, 5]]), r"the point \(8e\+07, 0.3\) is far outside"),
        (_region(x=1, y=2, radiusX=3, radiusY=0), "an ellipse with the radii 0.24 and 0"),
        (_region(x=1, y="2", radiusX=3, radiusY=3), "y: '2'"),
        (_region(x=1, y=2, width=3, height=float("inf")), "height: inf"),
        ({**_region(rle=WHITE), "original_width": 9}, "a brush for 9x6 pixels|annotation is for 9x6"),
        ({**_region(rle=WHITE), "image_rotation": 90}, "turned by 90 degrees; turn it back in Label Studio"),
        ({**_region(rle=WHITE), "value": {"labels": [""], "rle": WHITE}}, "the label '' is empty"),
    ],
)
def test_a_damaged_region_of_label_studio_is_named(tmp_path, region, words):
    pytest.importorskip("pycocotools")
    with pytest.raises(DataError, match=words) as error:
        masks_of(read_format(_tasks(tmp_path, region), "label_studio_json", "export.json"), tmp_path)
    assert "export.json: task 7" in str(error.value) or "a.png" in str(error.value)
    assert not (tmp_path / "voc").exists()


NOT_ITS = [
    {},
    [],
    [1],
    [{}],
    "x",
    [{"data": {}, "annotations": 1}],
    [{"data": 5, "annotations": [{"result": []}]}],
    [{"data": {}, "annotations": [{"result": []}]}],
]


@pytest.mark.parametrize("content", NOT_ITS)
def test_json_that_is_not_label_studios_is_refused(tmp_path, content):
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"export\.json: (not Label Studio's|no object|task without an id: (names no|data: 5))"
    ):
        read_format(tmp_path, "label_studio_json", "export.json")
