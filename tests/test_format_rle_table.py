"""Tables of run lengths: their columns, empty rows, and lines that name what is damaged."""

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError


def _read(folder, *lines):
    for name in ("a", "b"):
        Image.new("RGB", (4, 3)).save(folder / f"{name}.png")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return read_format(folder, "rle_csv", "train.csv")


CAT = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]  # pixels 1 and 2, and 6, down the columns


@pytest.mark.parametrize(
    ("lines", "classes"),
    [
        (("ImageId,ClassId,EncodedPixels", "a.png,cat,1 2 6 1", "b.png,cat,", "b.png,dog,12 1"), "cat dog"),
        (("EncodedPixels,Image_Label", "1 2 6 1,a.png_cat", ",b.png_cat", "12 1,b.png_dog"), "cat dog"),
        (("id,rle,width,height", "a,1 2 6 1,4,3", "b,-1,4,3", "b,12 1,4,3"), "object"),
        (("image_id,rle,other", "a.jpg,1 2 6 1,", "", "b,nan,", 'b,"12 1","x,y"'), "object"),
    ],
)
def test_tables_of_all_kinds(tmp_path, lines, classes):
    dataset = _read(tmp_path, *lines)
    assert dataset.class_names == ("background", *classes.split())
    masks = masks_of(dataset, tmp_path)
    assert masks["a"].tolist() == CAT
    assert np.flatnonzero(masks["b"]).tolist() == [11]
    assert masks["b"].max() == len(classes.split())


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_lines_of_other_systems_end_otherwise(tmp_path, end):
    dataset = _read(tmp_path, end.join(("ImageId,EncodedPixels,width,height", "a.png,1 2 6 1,4,3", "b.png,,\u00b2,3")))
    assert masks_of(dataset, tmp_path)["a"].tolist() == CAT


@pytest.mark.parametrize("column", ["annotation", "Segmentation"])
def test_runs_whose_order_is_not_known_are_refused(tmp_path, column):
    """Sartorius's table, whose runs go along the rows."""
    with pytest.raises(DataError, match=rf"train\.csv: the runs of a column '{column.lower()}' go along the rows in"):
        _read(tmp_path, f"id,{column},width,height", "a,1 2 6 1,4,3")


def test_a_field_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("deeplab.data.source.formats.rle_table._LONGEST_FIELD", 100)
    with pytest.raises(DataError, match=r"train\.csv: line 2: field larger than field limit"):
        _read(tmp_path, "id,rle", f"a,{'1 2 ' * 100}")


def test_a_long_field_is_read(tmp_path):
    """Python's csv refuses more than 131,072 characters."""
    runs = " ".join(["1 2"] * 50_000)
    dataset = _read(tmp_path, "ImageId,EncodedPixels", f"a.png,{runs}", "b.png,1 1")
    assert dataset.examples[0].draw(3, 4).ravel(order="F").tolist() == [1, 1] + [0] * 10


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,1 2 3", "line 2: 3 numbers; each run has two"),
        ("a.png,0 2", r"train\.csv: a\.png: an object of 'object' cannot be drawn: the run 0 2 does not lie in the 12"),
        ("a.png,12 2", "the run 12 2 does not lie in the 12 pixels"),
        ("a.png,1 0", "the run 1 0 does not lie"),
        ("a.png,1 4294967295", "the run 1 4294967295 does not lie"),
        ("a.png,1 4294967296", "line 2: a run of 4294967296 pixels"),
        ("a.png,1 -2", "line 2: a run of -2 pixels"),
        ("a.png,1 x", "line 2: invalid literal"),
        ("a.png", "line 2: 1 fields, but the header has 2"),
        ("..,1 1", r"line 2: the image '\.\.'"),
        ("c.png,1 1", "missing file"),
        ("a.png,", "no object covers an area"),
    ],
)
def test_damaged_rows_are_named(tmp_path, row, words):
    with pytest.raises(DataError, match=words):
        masks_of(_read(tmp_path, "ImageId,EncodedPixels", row, "b.png,"), tmp_path)


@pytest.mark.parametrize("header", ["", "a,b", "ImageId,x", "EncodedPixels,x"])
def test_a_table_without_the_columns_is_refused(tmp_path, header):
    with pytest.raises(DataError, match=r"train\.csv: no columns of images and of run lengths; its header has"):
        _read(tmp_path, header)
