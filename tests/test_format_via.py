"""VIA's projects: versions, attributes, what is left out, and lines that name what is damaged."""

import json

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError

pytestmark = pytest.mark.usefixtures("pycocotools")


@pytest.fixture
def pycocotools():
    return pytest.importorskip("pycocotools")


def _write(folder, content):
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
    (folder / "via.json").write_text(json.dumps(content))
    return read_format(folder, "via_json", "via.json")


def _rect(x, y, width, height, **attributes):
    shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
    return {"shape_attributes": shape, "region_attributes": attributes}


def _images(*regions):
    entries = {"a.png": list(regions), "b.png": {"0": _rect(0, 0, 4, 3, label="cat")}}  # VIA 1 has a dictionary
    return {f"{name}5": {"filename": name, "size": 5, "regions": listed} for name, listed in entries.items()}


EXPECTED = np.repeat([[1, 1, 2, 2, 2, 2, 0, 0]], 6, 0) * (np.arange(6)[:, None] < 3)


@pytest.mark.parametrize("is_project", [True, False])
def test_via_2_and_1(tmp_path, is_project):
    regions = [
        _rect(0, 0, 4, 3, label="cat", note="x"),
        _rect(2, 0, 4, 3, label={"cat": False, "dog": True}),
        _rect(0, 0, 8, 6),
        {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {"label": "cat"}},
    ]
    images = _images(*regions)
    dataset = _write(tmp_path, {"_via_settings": {}, "_via_img_metadata": images} if is_project else images)
    assert dataset.left_out == {
        "region without 'label'": ["a.png"],
        "point: covers no area, or of an unknown kind": ["a.png"],
    }
    np.testing.assert_array_equal(masks_of(dataset, tmp_path)["a"], EXPECTED)


def _project_3(*shapes, **changes):
    metadata = {
        str(number): {"vid": "v1", "xy": shape, "z": [], "av": {"1": option}}
        for number, (shape, option) in enumerate(shapes)
    }
    metadata["whole"] = {"vid": "v1", "xy": [], "z": [], "av": {"2": "sunny"}}
    metadata["other"] = {"vid": "v2", "xy": [2, 0, 0, 4, 3], "z": [], "av": {"1": "0"}}
    return {
        "project": {"pid": "x"},
        "attribute": {"1": {"aname": "kind", "options": {"0": "cat", "1": "dog"}}, "2": {"aname": "weather"}},
        "file": {"1": {"fid": "1", "fname": "a.png"}, "2": {"fid": "2", "fname": "b.png"}},
        "view": {"v1": {"fid_list": ["1"]}, "v2": {"fid_list": [2]}},
        "metadata": metadata,
    } | changes


def test_via_3(tmp_path):
    shapes = [([2, 0, 0, 4, 3], "0"), ([7, 2, 0, 6, 0, 6, 3, 2, 3], "1"), ([6, 1, 1, 2, 2], "0"), ([8, 1, 1], "0")]
    dataset = _write(tmp_path, _project_3(*shapes))
    assert dataset.left_out == {
        "polyline: covers no area, or of an unknown kind": ["a.png"],
        "extreme shape: covers no area, or of an unknown kind": ["a.png"],
    }
    np.testing.assert_array_equal(masks_of(dataset, tmp_path)["a"], EXPECTED)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_images(_rect(0, 0, 4, 3, a="x", b="y")), "the class? It has 'a', 'b', 'label'"),
        ({"a.png5": {"filename": "a.png", "regions": [_rect(0, 0, 1, 1, a="x", b="y")]}}, "It has 'a', 'b'; call one"),
        ({"a.png5": {"filename": "a.png", "regions": [_rect(0, 0, 1, 1)]}}, "It has none; call one of them 'label'"),
        (_images(_rect(0, 0, "4", 3, label="x")), "not a project of VIA: width: '4'"),
        (
            _images(_rect(0, 0, 1e9, 3, label="x")),
            "an object of 'x' cannot be drawn: the point .* far outside",
        ),
        (_images({"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {"label": "x"}}), "not enough"),
        (_images({"region_attributes": {"label": "x"}}), "no field 'shape_attributes'"),
        (_images(_rect(0, 0, 4, 3, label="\n")), "the label .* is empty"),
        ({"a": {"filename": "..", "regions": [_rect(0, 0, 4, 3, label="x")]}}, "not the name of an image"),
        (_project_3(([7, 1, 1, 2, 2, 3], "0")), "a.png: zip"),
        (_project_3(([], "0"), view={"v1": {"fid_list": [1, 2]}, "v2": {"fid_list": [2]}}), "view v1 has 2 files"),
        (_project_3(([2, 0, 0, 4, 3], "0"), attribute={}), "not a project of VIA: no field '1'"),
        (_project_3(([2, 0, 0, 4, 3], "0"), attribute={"1": 7}), "not a project of VIA: 1: 7"),
        (_project_3(([2, 0, 0, 4, 3], "0"), attribute={"1": {"aname": []}}), r"not a project of VIA: aname: \[\]"),
        (_project_3(([2, 0, 0, 4, 3], ["0"])), "a.png: the label list is not text"),
        (_project_3(([2, 0, 0, 4, 3], "0"), view={"v1": 7}), "not a project of VIA"),
        ([], "not a project of VIA"),
        ({}, "not a project of VIA: which attribute"),
    ],
)
def test_damaged_projects_are_named(tmp_path, content, words):
    if "the class?" in words:  # `label` is taken where there is one
        assert _write(tmp_path, content).left_out == {"region without 'label'": ["a.png"]}
        return
    with pytest.raises(DataError, match=rf"via\.json: .*{words}"):
        masks_of(_write(tmp_path, content), tmp_path)
