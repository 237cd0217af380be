"""What one file may cost, and what it may be: limits, pipes, and pictures inside annotations."""

import base64
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable, read_classes
from deeplab.data.source.formats.coco_masks import CocoObject, _decompressed, draw
from deeplab.data.source.formats.dataset import check_near_image
from deeplab.data.source.formats.findings import clean_label
from deeplab.data.source.formats.labelme import read_labelme
from deeplab.data.source.formats.yolo import read_yolo
from deeplab.data.source.images import MAX_BYTES, ImageFile, read_image
from deeplab.data.source.masks import read_mask
from deeplab.errors import DataError
from deeplab.run.run_folder import read_config
from deeplab.text import read_lines
from deeplab.view.report import read_records


def _encoded(picture, format):
    content = io.BytesIO()
    picture.save(content, format)
    return base64.b64encode(content.getvalue()).decode()


def _line(read, *arguments):
    """What a reader raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        read(*arguments)
    (line,) = str(caught.value).splitlines()
    assert len(line) < 700
    return line


# pictures inside annotations


def _mask_of(tmp_path, mask, side=4):
    shape = {"label": "cat", "shape_type": "mask", "points": [[2, 2], [1 + side, 1 + side]], "mask": mask}
    content = {"shapes": [shape], "imagePath": "a.png", "imageWidth": 10, "imageHeight": 10}
    (tmp_path / "a.json").write_text(json.dumps(content))
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    (example,) = read_labelme(tmp_path).examples
    return example


def test_a_mask_inside_an_annotation_is_a_png(tmp_path):
    mask = Image.fromarray(np.eye(4, dtype=np.uint8) * 255)
    drawn = _mask_of(tmp_path, _encoded(mask, "PNG")).draw(10, 10)
    np.testing.assert_array_equal(drawn[2:6, 2:6], np.eye(4))
    for format in ("PCX", "GIF", "EPS", "JPEG"):
        line = _line(_mask_of(tmp_path, _encoded(mask, format)).draw, 10, 10)
        assert line.endswith("a.json: a mask of 'cat': cannot be read as an image: not PNG, or truncated")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("no base64!", "not PNG, or truncated"),
        (7, "cannot be decoded"),
        ({"a": 1}, "cannot be decoded"),
        ("", "left out: 1 mask without pixels"),
    ],
)
def test_a_mask_that_is_no_picture(tmp_path, mask, words):
    assert words in _line(lambda: _mask_of(tmp_path, mask).draw(10, 10))


def test_a_mask_of_another_size_is_refused_by_its_header(tmp_path, monkeypatch):
    """Decoded, this one would have 80 million pixels."""
    example = _mask_of(tmp_path, _encoded(Image.new("1", (9000, 9000)), "PNG"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert "a mask of 'cat' has 9000x9000 pixels, its points say 4x4" in _line(example.draw, 10, 10)


def test_an_image_inside_an_annotation_has_a_format_of_images(tmp_path):
    shape = {"label": "cat", "points": [[1, 1], [8, 1], [8, 8]]}
    picture = Image.new("RGB", (10, 10))
    for format, words in (("PNG", ""), ("PCX", "(imageData): cannot be read as an image: not in a supported format")):
        content = {"shapes": [shape], "imagePath": "none.png", "imageData": _encoded(picture, format)}
        (tmp_path / "a.json").write_text(json.dumps(content))
        (example,) = read_labelme(tmp_path).examples
        if words:
            assert words in _line(example.open_image)
        else:
            assert example.open_image().size == (10, 10)


# pixels and bytes


def test_an_image_has_at_most_the_given_pixels(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 12).shape == (3, 4, 3)
    assert _line(read_image, tmp_path / "a.png", 11).endswith("a.png: 4x3 pixels, more than max_pixels=11")


def test_an_image_of_more_pixels_than_the_default_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (9460, 9460)).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile, "pixels", None)
    assert "9460x9460 pixels, more than max_pixels=89,478,485" in _line(read_image, tmp_path / "a.png")


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert f"a.png: cannot be read: {MAX_BYTES + 1:,} bytes, more than {MAX_BYTES:,}" in _line(
        read_image, tmp_path / "a.png"
    )


# names and lists


def test_names_of_classes_have_at_most_200_characters(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(f"background\n{'x' * 200}\n")
    assert len(read_classes(path).names[1]) == 200
    assert clean_label("x" * 200) == "x" * 200
    path.write_text(f"background\n{'x' * 201}\n")
    assert "line 2: a name of 201 characters, more than 200" in _line(read_classes, path)
    with pytest.raises(ValueError, match=r"^the label 'x{79}\.\.\. has 201 characters, more than 200$"):
        clean_label("x" * 201)


@pytest.mark.parametrize("text", ["a: {}", "a: #ff0000\nb: {}", "a:{},0,0::\nb:1,2,3::"])
def test_numbers_of_thousands_of_digits_in_a_class_table(tmp_path, text):
    (tmp_path / "names.txt").write_text(text.format("9" * 5000) + "\n")
    assert "names.txt: line " in _line(read_classes, tmp_path / "names.txt")


@pytest.mark.parametrize("line", ["a: " + "1, " * 10_000, "a,b" * 10_000, "a:" * 10_000, "0 " + "x" * 10_000])
def test_of_a_long_line_of_classes_only_the_beginning_is_shown(tmp_path, line):
    (tmp_path / "names.txt").write_text(f"{line}\n{line}\n")
    assert "names.txt: line 1: " in _line(read_classes, tmp_path / "names.txt")


def test_lists_and_tables_have_a_largest_size(tmp_path):
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate((16 << 20) + 1)
    assert "(list): 16,777,217 bytes, more than 16,777,216" in _line(read_lines, tmp_path / "list.txt", "list")
    (tmp_path / "names.txt").write_text("a\n" * 2**19 + "b")
    assert "(class names): 1,048,577 bytes, more than 1,048,576" in _line(read_classes, tmp_path / "names.txt")


def test_a_line_of_a_list_has_a_largest_length(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "train.txt").write_text("a " * 5000)
    assert "train.txt: line 1: 9,999 characters, more than 8,192" in _line(voc.pairs, tiny_voc, "train")


def test_a_null_character_is_no_text(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "train.txt").write_text("/JPEGImages/a.jpg /Segmentation\0Class/a.png\n")
    assert "(split): it holds a null character, so it is not text" in _line(voc.pairs, tiny_voc, "train")


@pytest.mark.parametrize("name", ["x" * 5000, "a" + " /JPEGImages/a.jpg" * 300, "/JPEGImages/a.jpg " + "y" * 5000])
def test_a_name_that_is_too_long_for_a_file_is_shown_in_part(tiny_voc, name):
    (tiny_voc / "ImageSets" / "Segmentation" / "train.txt").write_text(name)
    assert "train.txt: " in _line(voc.pairs, tiny_voc, "train")


def test_nobody_waits_for_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "model.json").symlink_to(pipe)
    for read, *arguments in (
        (read_image, pipe),
        (read_mask, pipe, ClassTable.of_names(("a", "b"))),
        (read_classes, pipe),
        (read_lines, pipe, "list"),
        (read_config, tmp_path),
        (read_records, pipe),
    ):
        assert "a pipe or a device, not a regular file" in _line(read, *arguments)


# data.yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, x]\nnames: [*a, *a]\n", "an alias (*), which is not supported"),
        ("a: &a {b: 1}\nnames: {<<: *a}\n", "an alias (*), which is not supported"),
        ("names: " + "[" * 50_000, "nested deeper than 20"),
        ("names: " + "[" * 21 + "]" * 21, "nested deeper than 20"),
        ("names: [" + "x, " * 2**17, "more than 131,072"),
        ("names: [" + "x" * 1000 + "]", "has 1,000 characters, more than 200"),
        ("names: [[" + "x" * 1000 + "]]", "the label list is not text"),
    ],
)
def test_a_data_yaml_that_would_cost_much(tmp_path, text, words):
    pytest.importorskip("yaml")
    (tmp_path / "data.yaml").write_text(text)
    assert words in _line(read_yolo, tmp_path / "data.yaml")


# run lengths and outlines


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([-1, 13], "a run length is negative"),
        ([4, 5], "do not add up to 4x3 pixels"),
        ("o" * 1_000_000, "compressed run lengths are damaged"),  # one number that never ends
        ("\x00", "compressed run lengths are damaged"),
        ("é", "compressed run lengths are damaged"),
        ("O<", "a run length is negative"),
    ],
)
def test_damaged_run_lengths(tmp_path, counts, words):
    pytest.importorskip("pycocotools")
    found = CocoObject("cat", run_lengths={"size": [3, 4], "counts": counts})
    assert words in _line(draw, tmp_path / "a.jpg", [found], {"cat": 1, "void": 255}, 3, 4)


def test_a_million_run_lengths_are_read_in_linear_time():
    assert sum(_decompressed("0" * 1_000_000)) == 0


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(0, 0)] * 100_001, "100,001 points, more than 100,000"),
        ([(0, 0), (10, 10)] * 300, "an outline of 8,471 pixels, more than 100 times around its 10x10"),
        ([(0, 0), (1e9, 0)], "far outside"),
    ],
)
def test_an_outline_whose_drawing_would_take_long(points, words):
    with pytest.raises(ValueError, match=words):
        check_near_image(points, 10, 10)


@pytest.mark.parametrize("value", [10**400, 1e999, -1, True, [1], "x", None])
def test_odd_numbers_in_an_annotation_end_in_one_line_or_are_taken(tmp_path, value):
    shape = {"label": "cat", "points": [[1, 1], [8, 1], [8, 8]]}
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    for change in ({"imageWidth": value, "imageHeight": value}, {"shapes": [{**shape, "points": [[value, 1]] * 3}]}):
        (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png", **change}))
        try:
            (example,) = read_labelme(tmp_path).examples
            example.draw(10, 10)
        except DataError as error:
            assert "a.json" in str(error)


@pytest.mark.parametrize("value", [10**400, "big", -1e31, [1], {"a": 1}])
def test_of_a_record_only_numbers_that_can_be_drawn_are_kept(tmp_path, value):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "val", "loss": value}))
    assert read_records(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "val"}]


@pytest.mark.parametrize("content", [b"\xff\xfe\xff", b'{"step": 1, "split": "\xe9"}'])
def test_records_that_are_no_text(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert "metrics.jsonl: " in _line(read_records, tmp_path / "metrics.jsonl")
