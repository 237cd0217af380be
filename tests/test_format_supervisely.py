"""Supervisely's annotations: names, splits, what is left out, and lines that name what is damaged."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError


def _png(pixels, mode="L"):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, "PNG")
    return content.getvalue()


def _bitmap(content, origin=(0, 0)):
    data = base64.b64encode(content).decode()
    return {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": data, "origin": list(origin)}}


POLYGON = {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": [[1, 1], [5, 1], [5, 4]]}}
ON = np.full((2, 3), 255, np.uint8)


def _project(tmp_path, *objects, tags=(), **others):
    folder = tmp_path / "project"
    for number, content in enumerate([objects, [POLYGON]]):
        for name in ("img", "ann"):
            (folder / "ds" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / "ds" / "img" / f"{number}.png")
        fields = {"size": {"height": 6, "width": 8}, "tags": [{"name": tag} for tag in tags], "objects": content}
        (folder / "ds" / "ann" / f"{number}.png.json").write_text(json.dumps({**fields, **others}))
    (folder / "meta.json").write_text(json.dumps({"classes": [{"title": "cat", "shape": "any"}]}))
    return folder


@pytest.mark.parametrize(
    "content", [_png(ON), zlib.compress(_png(ON)), zlib.compress(_png(ON, "1")), zlib.compress(_png(ON, "RGBA"))]
)
def test_bitmaps_of_all_kinds_of_supervisely(tmp_path, content):
    cut = _bitmap(content, (7, 5))
    point = {"classTitle": "cat", "geometryType": "point", "points": {"exterior": [[1, 1]]}}
    dataset = read_format(_project(tmp_path, _bitmap(content, (1, 2)), cut, point, tags=["val"]), "supervisely_dir", "")
    assert [(example.name, example.split, example.num_objects) for example in dataset.examples] == [
        ("ds/0", "val", 2),
        ("ds/1", "val", 1),
    ]
    assert dataset.left_out == {"point: covers no area, or of an unknown kind": ["0.png"]}
    expected = np.zeros((6, 8))
    expected[2:4, 1:4] = 1
    expected[5, 7] = 1
    np.testing.assert_array_equal(dataset.examples[0].draw(6, 8), expected)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (_bitmap(b"no"), "a bitmap that cannot be unpacked"),
        (_bitmap(zlib.compress(b"no")), "a bitmap: cannot be read as an image"),
        (_bitmap(zlib.compress(_png(ON))[:-20]), "cannot be unpacked|cannot be read as an image"),
        (_bitmap(zlib.compress(b"\0" * (1 << 24))), "a bitmap of more than 65,920 bytes"),
        (_bitmap(_png(np.zeros((7, 3), np.uint8))), "a bitmap of 3x7 pixels in an image of 8x6"),
        (_bitmap(_png(ON, "RGB")), "a bitmap in colours, without alpha"),
        (_bitmap(_png(ON), (1, "2")), "a bitmap of 'cat': origin: '2'"),
        ({**_bitmap(_png(ON)), "bitmap": {"data": "?", "origin": [0, 0]}}, "a bitmap of 'cat': data: "),
        ({**POLYGON, "points": {"exterior": [[1, 1], [1, 2], [1e9, 3]]}}, "is far outside its 8x6 pixels"),
        ({**POLYGON, "points": {"exterior": [[1, 1], [1, 2], [1]]}}, "a polygon of 'cat': not enough values"),
        ({**POLYGON, "points": {"exterior": [[1, 1], [1, 2], [1, None]]}}, "a polygon of 'cat': point: None"),
        ({**POLYGON, "points": []}, r"a polygon of 'cat': points: \[\]"),
        ({**POLYGON, "points": {"exterior": [[1, 1], [1, 2], [1e300, 3]]}}, "is far outside its 8x6 pixels"),
        ({**POLYGON, "classTitle": 7}, "classTitle: 7"),
    ],
)
def test_a_damaged_object_of_supervisely_is_named(tmp_path, entry, words):
    with pytest.raises(DataError, match=rf"0\.png\.json: .*({words})"):
        masks_of(read_format(_project(tmp_path, entry), "supervisely_dir", ""), tmp_path)
    assert not (tmp_path / "voc").exists()


def test_folders_that_are_no_project_of_supervisely(tmp_path):
    with pytest.raises(DataError, match=r"meta\.json: no such file"):
        read_format(tmp_path, "supervisely_dir", "")
    (tmp_path / "meta.json").write_text('{"classes": [{"title": 1}]}')
    with pytest.raises(DataError, match=r"meta\.json: not the classes of Supervisely's project: title: 1"):
        read_format(tmp_path, "supervisely_dir", "")
    (tmp_path / "meta.json").write_text('{"classes": []}')
    with pytest.raises(DataError, match="no object covers an area"):
        read_format(tmp_path, "supervisely_dir", "")
    (tmp_path / "colors.txt").write_text("cat 1 2 256\n")
    with pytest.raises(DataError, match=r"colors\.txt: line 1: not a name and three numbers: not from 0 to 255"):
        read_format(tmp_path, "supervisely_dir", "")
    for text, words in (
        ("cat 1 2 3\n\ndog 1 2 3", "3: 'dog' .* of 'cat'"),
        ("cat 0 0 0", "1: 'cat' .* of 'background'"),
    ):
        (tmp_path / "colors.txt").write_text(text)
        with pytest.raises(DataError, match=rf"colors\.txt: line {words}; give each class another one"):
            read_format(tmp_path, "supervisely_dir", "")
    (tmp_path / "colors.txt").write_text("cat 1 2\n")
    with pytest.raises(DataError, match=r"colors\.txt: line 1: not a name and three numbers"):
        read_format(tmp_path, "supervisely_dir", "")
