"""Names of images, splits and classes, as the readers of all formats make them."""

import pytest

from deeplab.data.source.formats.dataset import class_table, name_in_voc, split_name
from deeplab.data.source.formats.findings import clean_label
from deeplab.errors import DataError


def test_names():
    assert name_in_voc("day1/IMG 1.jpg") == "day1/IMG 1"
    assert name_in_voc("../a/../b.c.png") == "a/b.c"
    assert name_in_voc("C:\\images\\x.jpg") == "x"
    assert name_in_voc("/home/me/x.jpg") == "x"
    assert name_in_voc("https://host/x.jpg") == "x"
    assert [split_name(name) for name in ("valid", "train2017", "Validation", "default")] == [
        "val",
        "train",
        "val",
        "default",
    ]


def test_labels():
    assert clean_label(" cafe\u0301 ") == "café"
    assert clean_label(3) == "3"
    for label in ("", " ", None, True, 1.5, "a\nb"):
        with pytest.raises(ValueError, match="label"):
            clean_label(label)
    assert class_table(["a", "background", "void", "a"]) == (
        ("background", "a"),
        {"background": 0, "a": 1, "void": 255},
    )
    with pytest.raises(DataError, match="256 classes"):
        class_table(map(str, range(255)))
