"""labelme: its shapes, names and images become a data set, or a line names the file."""

import base64
import io
import itertools
import json
import logging
import random

import numpy as np
import pytest
from converted import _classes, _image, _masks, _splits, _turned
from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.classes import read_classes
from deeplab.data.source.formats.labelme import read_labelme
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import DataError, UsageError


def _shape(label, kind, *points, **others):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **others}


def _square(label, left, top, side):
    right, bottom = left + side, top + side
    return _shape(label, "polygon", (left, top), (right, top), (right, bottom), (left, bottom))


def _annotate(path, image_path, *shapes, **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imagePath": image_path, "shapes": shapes, **others}), encoding="utf-8")


@pytest.fixture
def drawn(tmp_path):
    """Two annotated images, `one` (PNG) and `two` (JPEG)."""
    folder = tmp_path / "drawn"
    _image(folder / "one.png")
    _image(folder / "two.jpg")
    _annotate(
        folder / "one.json", "one.png", _square("wheel", 5, 5, 10), _shape("body", "rectangle", (30, 20), (10, 10))
    )
    _annotate(folder / "two.json", "two.jpg", _square("body", 0, 0, 39))
    return folder


def _convert_labelme(folder, tmp_path):
    write_voc(read_labelme(folder), tmp_path / "voc", 0.5)
    return tmp_path / "voc"


def test_labelme_shapes_later_ones_in_front(drawn, tmp_path):
    circle = _shape("__ignore__", "circle", (35, 25), (38, 25))
    content = json.loads((drawn / "one.json").read_text())
    (drawn / "one.json").write_text(json.dumps({**content, "shapes": [*content["shapes"], circle]}))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _classes(voc_dir) == ["background", "body", "wheel"]
    expected = np.zeros((30, 40), np.uint8)
    expected[5:16, 5:16] = 2
    expected[10:21, 10:31] = 1
    mask = _masks(voc_dir)["one"]
    np.testing.assert_array_equal(mask[:, :31], expected[:, :31])
    assert (mask[25, 32:39] == 255).all()
    assert abs((mask == 255).sum() - np.pi * 3.5**2) < 8
    assert sorted(path.name for path in (voc_dir / "JPEGImages").iterdir()) == ["one.png", "two.jpg"]
    assert (voc_dir / "JPEGImages" / "two.jpg").read_bytes() == (drawn / "two.jpg").read_bytes()
    assert sorted(itertools.chain(*_splits(voc_dir).values())) == ["one", "two"]


def test_random_split_is_the_one_that_it_was(drawn, tmp_path):
    for number in range(20):
        _image(drawn / f"more_{number:02d}.jpg")
        _annotate(drawn / f"more_{number:02d}.json", f"more_{number:02d}.jpg", _square("body", 0, 0, 9))
    voc_dir = tmp_path / "voc"
    write_voc(read_labelme(drawn), voc_dir, 0.25)
    names = [path.stem for path in sorted(drawn.glob("*.json"))]
    random.Random(0).shuffle(names)
    splits = _splits(voc_dir)
    assert splits["val"] == sorted(names[:6])
    assert splits["train"] == sorted(names[6:])


@pytest.mark.parametrize("kind", ["polygon", "rotation", "quadrilateral", "oriented_rectangle", "rectangle"])
def test_four_corners_cover_what_is_between_them(drawn, tmp_path, kind):
    """X-AnyLabeling's rectangles and rotated boxes have four corners, labelme 6's oriented rectangles, too."""
    _annotate(drawn / "one.json", "one.png", _shape("a", kind, (10, 5), (20, 15), (10, 25), (0, 15)))
    mask = _masks(_convert_labelme(drawn, tmp_path))["one"]
    rows, columns = np.mgrid[:30, :40]
    np.testing.assert_array_equal(mask == 1, abs(rows - 15) + abs(columns - 10) <= 10)


def test_masks_lines_and_points(drawn, tmp_path, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    png = io.BytesIO()
    pixels = np.zeros((4, 6), bool)
    pixels[1:3, 2:5] = True
    Image.fromarray(pixels).save(png, "PNG")
    encoded = base64.b64encode(png.getvalue()).decode()
    _annotate(
        drawn / "one.json",
        "one.png",
        _shape("a", "mask", (-1.0, 3.0), (4.0, 6.0), mask=encoded),
        _shape("b", "mask", (35.0, 27.0), (40.0, 30.0), mask=encoded),  # beyond the edge
        _shape("c", "line", (0, 0), (30, 20)),
        _shape("c", "linestrip", (0, 0), (30, 20), (5, 5)),
        _shape("c", "point", (3, 3)),
        _shape("c", "polygon", (3, 3), (4, 4)),
    )
    voc_dir = _convert_labelme(drawn, tmp_path)
    mask = _masks(voc_dir)["one"]
    expected = np.zeros_like(mask)
    expected[4:6, 1:4] = 1
    expected[28:30, 37:40] = 2
    np.testing.assert_array_equal(mask, expected)
    assert _classes(voc_dir) == ["background", "a", "b", "body"]
    for kind in ("line: covers no area", "linestrip: covers no area", "point: covers no area", "polygon with 2 points"):
        assert f"left out: 1 {kind} (one.json)" in caplog.text
    _annotate(drawn / "one.json", "one.png", _shape("a", "mask", (0, 0), (20, 20), mask=encoded))
    with pytest.raises(DataError, match=r"one\.json: a mask of 'a' has 6x4 pixels, its points say 21x21"):
        write_voc(read_labelme(drawn), tmp_path / "other", 0.5)
    assert not (tmp_path / "other").exists()


def test_old_files_byte_order_marks_subfolders_and_windows_paths(tmp_path):
    folder = tmp_path / "drawn"
    for day in ("day1", "day2"):
        _image(folder / day / "a.jpg")
        square = _square("cat", 3, 3, 5)
        del square["shape_type"]  # as version 3 writes it
        content = json.dumps(
            {"imagePath": "..\\other\\a.jpg", "shapes": [{**square, "line_color": None}], "lineColor": []}
        )
        (folder / day / "a.json").write_text(content, encoding="utf-8-sig")
    _annotate(folder / "._a.json", "no.jpg")
    _annotate(folder / ".hidden" / "a.json", "no.jpg")
    voc_dir = _convert_labelme(folder, tmp_path)
    assert set(_masks(voc_dir)) == {"day1/a", "day2/a"}
    assert all((mask == 1).sum() == 36 for mask in _masks(voc_dir).values())
    assert sorted(itertools.chain(*_splits(voc_dir).values())) == ["day1/a", "day2/a"]
    assert (voc_dir / "JPEGImages" / "day2" / "a.jpg").is_file()


def test_an_image_inside_the_annotation(drawn, tmp_path):
    data = base64.b64encode((drawn / "one.png").read_bytes()).decode()
    content = json.loads((drawn / "one.json").read_text())
    _annotate(drawn / "one.json", "one.png", *content["shapes"], imageData=data)
    (drawn / "one.png").unlink()
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert np.array(Image.open(voc_dir / "JPEGImages" / "one.png")).shape == (30, 40, 3)
    _annotate(drawn / "one.json", "one.png", *content["shapes"], imageData="bm8gaW1hZ2U=")
    with pytest.raises(DataError, match=r"one\.json \(imageData\): cannot be read as an image"):
        write_voc(read_labelme(drawn), tmp_path / "other", 0.5)


def test_images_with_another_ending_and_without_a_path(drawn, tmp_path):
    _annotate(drawn / "one.json", "one.JPG", _square("body", 0, 0, 9))
    _annotate(drawn / "two.json", None, _square("body", 0, 0, 9))
    assert set(_masks(_convert_labelme(drawn, tmp_path))) == {"one", "two"}
    _image(drawn / "one.bmp")
    with pytest.raises(DataError, match=r"one\.json: .*one\.bmp and one\.png could be"):
        read_labelme(drawn)


def test_background_void_and_labels_that_look_alike(drawn, tmp_path, caplog):
    squares = [
        _square(label, 5 * number, 0, 4)
        for number, label in enumerate(["cat", "_background_", " cat ", "BACKGROUND", "Cat", "Void", "__ignore__"])
    ]
    _annotate(drawn / "one.json", "one.png", *squares)
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _classes(voc_dir) == ["background", "Cat", "body", "cat"]
    assert _masks(voc_dir)["one"][2, 2::5].tolist() == [3, 0, 3, 0, 1, 255, 255, 0]
    assert "look alike: 'Cat', 'cat'" in caplog.text


def test_exif_turns_as_annotation_tools_show_them(drawn, tmp_path):
    """The stated size decides where it can: labelme's is that of the turned image."""
    _image(drawn / "two.jpg", **_turned(6))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _masks(voc_dir)["two"].shape == (40, 30)
    assert np.array(Image.open(voc_dir / "JPEGImages" / "two.png")).shape == (40, 30, 3)
    _annotate(drawn / "two.json", "two.jpg", _square("body", 0, 0, 9), imageWidth=40, imageHeight=30)
    write_voc(read_labelme(drawn), tmp_path / "raw", 0.5)
    assert _masks(tmp_path / "raw")["two"].shape == (30, 40)


def test_all_problems_are_reported_and_nothing_is_written(drawn, tmp_path, caplog):
    _annotate(drawn / "a.json", "a.jpg", _square("body", 0, 0, 9))
    _annotate(drawn / "b.json", "b.jpg", _square("body", 0, 0, 9))
    _annotate(drawn / "c.json", "one.png", _shape("x", "cuboid", (0, 0), (1, 1)))
    (drawn / "d.json").write_text("{}")
    (drawn / "e.json").write_text("{")
    _annotate(drawn / "f.json", "one.png", _square("", 0, 0, 9))
    _annotate(drawn / "g.json", "one.png", {"label": "x", "shape_type": "polygon"})
    with pytest.raises(DataError, match=r"e\.json: cannot be read as JSON.*4 problems in all"):
        read_labelme(drawn)
    assert "g.json: not an annotation of labelme (no 'points')" in caplog.text
    with pytest.raises(DataError, match=r"e\.json: cannot be read as JSON.*6 problems in all"):
        read_labelme(drawn, strict=True)
    assert "--strict: 1 cuboid: not a shape of labelme (c.json)" in caplog.text
    assert "--strict: 1 *.json of another tool (d.json)" in caplog.text
    for words in (r"e.json: cannot be read as JSON", "f.json: not an annotation of labelme (the label '' is empty"):
        assert words in caplog.text
    assert f"2 missing files: {drawn / 'a.jpg'} (of a.json), {drawn / 'b.jpg'} (of b.json)" in caplog.text


def test_images_that_do_not_fit_are_reported_and_nothing_is_written(drawn, tmp_path, caplog):
    _annotate(drawn / "one.json", "one.png", _square("body", 0, 0, 9), imageWidth=80, imageHeight=60)
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(drawn / "deep.png")
    _annotate(drawn / "deep.json", "deep.png", _square("body", 0, 0, 9))
    (drawn / "text.jpg").write_text("no image")
    _annotate(drawn / "text.json", "text.jpg", _square("body", 0, 0, 9))
    with pytest.raises(DataError, match="3 problems in all"):
        _convert_labelme(drawn, tmp_path)
    assert "one.png: 40x30 pixels, but its annotation is for 80x60" in caplog.text
    assert "deep.png: 16 bits" in caplog.text
    assert "text.jpg: cannot be read as an image" in caplog.text
    (drawn / "deep.json").unlink()
    (drawn / "text.json").unlink()
    _annotate(drawn / "one.json", "one.png", _square("body", 0, 0, 9))
    content = _image(drawn / "two.jpg", (400, 300)).read_bytes()
    (drawn / "two.jpg").write_bytes(content[: len(content) // 2])  # found only when it is decoded
    with pytest.raises(DataError, match=r"two\.jpg: cannot be read as an image"):
        _convert_labelme(drawn, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn"]


def test_folders_that_cannot_be_used(drawn, tmp_path):
    with pytest.raises(UsageError, match="exists already"):
        write_voc(read_labelme(drawn), drawn, 0.5)
    with pytest.raises(DataError, match="no such folder"):
        read_labelme(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*\.json"):
        read_labelme(tmp_path / "empty")
    _image(tmp_path / "empty" / "a.jpg")
    _annotate(tmp_path / "empty" / "a.json", "a.jpg", _shape("cat", "line", (0, 0), (5, 5)))
    with pytest.raises(DataError, match=r"no \*\.json contains a shape that covers an area"):
        read_labelme(tmp_path / "empty")
    (drawn / "two.json").unlink()
    with pytest.raises(DataError, match="two are needed"):
        _convert_labelme(drawn, tmp_path)
    _annotate(drawn / "two.json", "one.png", _square("body", 0, 0, 9))
    with pytest.raises(DataError, match="same name"):
        _convert_labelme(drawn, tmp_path)


def test_labelme_draws_the_same(tmp_path):
    """By labelme's own code, where it is installed."""
    shape_to_mask = pytest.importorskip("labelme.utils").shape_to_mask
    rng = np.random.default_rng(0)
    folder, truths = tmp_path / "drawn", []
    for number in range(20):
        _image(folder / f"{number}.png", (97, 61))
        kind, count = (("polygon", 7), ("circle", 2), ("rectangle", 2))[number % 3]
        points = rng.uniform(-5, 100, (count, 2))
        _annotate(folder / f"{number}.json", f"{number}.png", _shape("a", kind, *points.tolist()))
        truths.append(
            shape_to_mask((61, 97), points.tolist() if kind != "rectangle" else sorted(points.tolist()), kind)
        )
    masks = _masks(_convert_labelme(folder, tmp_path))
    for number, truth in enumerate(truths):
        np.testing.assert_array_equal(masks[str(number)] == 1, truth)


def test_the_result_can_be_prepared(drawn, tmp_path):
    """Also with blanks and an image's ending in a name, and labels that separate columns in a table of classes."""
    for name in ("a b", "c.png"):
        _image(drawn / "day 1" / f"{name}.bmp")
        _annotate(drawn / "day 1" / f"{name}.json", f"{name}.bmp", _square("body: left, #1", 0, 0, 9))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert read_classes(voc_dir / "class_names.txt").names == ("background", "body", "body_left_1", "wheel")
    pairs = [*voc.pairs(voc_dir, "train"), *voc.pairs(voc_dir, "val")]
    assert sorted(pair.name for pair in pairs) == ["day 1/a b", "day 1/c_png", "one", "two"]
    assert not any(pair.problem for pair in pairs)
