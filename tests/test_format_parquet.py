"""Hugging Face's parquet files: class names, columns, files that hold only paths, and what is damaged."""

import io
import json
import sys

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError, UsageError


def _content(pixels, form="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return {"bytes": content.getvalue(), "path": None}


IMAGE = _content(np.zeros((3, 4, 3), np.uint8))
MASK = _content(np.array([[0, 1, 2, 255]] * 3, np.uint8))


@pytest.fixture
def write(tmp_path):
    """Writes columns to a file, in groups of two rows."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write_table(name="train-00000-of-00001.parquet", **columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / name, row_group_size=2)
        return tmp_path

    return write_table


def test_names_and_splits(write, tmp_path):
    write(image=[IMAGE] * 3, label=[MASK] * 3, other=[1, 2, 3])
    folder = write("validation.parquet", picture=[IMAGE], annotation=[MASK])
    dataset = read_format(folder, "parquet_dir", "")
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    assert [example.split for example in dataset.examples] == ["train"] * 3 + ["val"]
    masks = masks_of(dataset, tmp_path)
    assert all(mask.tolist() == [[0, 1, 2, 255]] * 3 for mask in masks.values())
    assert sorted(masks) == [*(f"train-00000-of-00001/00000{row}" for row in range(3)), "validation/000000"]
    (folder / "id2label.json").write_text(json.dumps({"0": "sky", "1": "wall", "2": "a: b"}))
    assert read_format(folder, "parquet_dir", "").class_names == ("sky", "wall", "a_b")
    for content in ({"0": "sky", "2": "wall"}, {"x": "sky"}, ["sky"], {}):
        (folder / "id2label.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"id2label\.json: "):
            read_format(folder, "parquet_dir", "")


def test_a_file_that_holds_only_paths_is_refused(write, tmp_path):
    only_path = {"bytes": None, "path": "/home/me/a.png"}
    folder = write(image=[IMAGE, only_path], mask=[MASK, MASK])
    words = r"row 1: image holds only the path '/home/me/a\.png', of a file on the machine that wrote it"
    with pytest.raises(DataError, match=words):
        masks_of(read_format(folder, "parquet_dir", ""), tmp_path)
    folder = write(image=[IMAGE, IMAGE], mask=[only_path, MASK])
    with pytest.raises(DataError, match="row 0: mask holds only the path"):
        read_format(folder, "parquet_dir", "")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [IMAGE] * 2, "label": [1, 2]}, "no column of images and one of masks.*its columns: image, label"),
        ({"a": [IMAGE], "b": [MASK]}, "no column of images and one of masks"),
        ({"image": [IMAGE] * 2, "mask": [{**MASK, "bytes": b"x"}, MASK]}, r"row 0: mask: cannot be read as an image"),
        ({"image": [{**IMAGE, "bytes": b"x"}, IMAGE], "mask": [MASK] * 2}, r"row 0: image: cannot be read as an image"),
        ({"image": [IMAGE] * 2, "mask": [IMAGE, MASK]}, "row 0: mask: contains colours|train.*class_1"),
        ({"image": [IMAGE] * 2, "mask": [_content(np.zeros((3, 3), np.uint8)), MASK]}, "row 0: mask has 3x3 pixels"),
        ({"image": [IMAGE] * 2, "mask": [_content(np.zeros((3, 4), np.uint8), "JPEG"), MASK]}, "row 0: mask: a JPEG"),
    ],
)
def test_damaged_files_are_named(write, tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        masks_of(read_format(write(**columns), "parquet_dir", ""), tmp_path)


def test_files_that_are_not_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"contains no \*\.parquet"):
        read_format(tmp_path, "parquet_dir", "")
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        read_format(tmp_path, "parquet_dir", "")


def test_without_pyarrow_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pyarrow is needed to read parquet: pip install '\.\[parquet\]'"):
        read_format(tmp_path, "parquet_dir", "")
