"""VOC's classes, colours and splits."""

import random

import numpy as np
import pytest
from PIL import Image

from deeplab.data import voc
from deeplab.data.palette import palette
from deeplab.errors import DataError


def test_palette_is_vocs_published_one():
    colours = palette()
    # VOC devkit, VOClabelcolormap.m: aeroplane, bicycle, bird, person, tvmonitor, void.
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128)}
    published |= {20: (0, 64, 128), 255: (224, 224, 192)}
    for index, colour in published.items():
        assert tuple(colours[index]) == colour


def test_palette_equals_that_in_vocs_own_masks(voc_sample):
    with Image.open(voc_sample / "SegmentationClass" / "2007_000032.png") as mask:
        stored = np.array(mask.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(stored, palette()[: len(stored)])


def test_halves_of_val_follow_the_textbook(tiny_voc):
    names = [f"n{index}" for index in range(7)]
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    random.seed(42)
    shuffled = list(names)
    random.shuffle(shuffled)
    assert voc.read_split(tiny_voc, "val_half") == shuffled[:3]
    assert voc.read_split(tiny_voc, "test_half") == shuffled[3:]
    assert voc.read_split(tiny_voc, "trainval") == ["a", "b", *names]


def test_a_list_file_wins_over_a_built_in_split(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "val_half.txt").write_text("\ufeffb\n\n my photo \n", encoding="utf-8")
    assert voc.read_split(tiny_voc, "val_half") == ["b", "my photo"]  # a byte order mark is no part of a name


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty"), ("a\na\n", "'a' stands twice"), ("../a\n", "not a plain file name"), ("..\n", "not a plain")],
)
def test_bad_split_files_are_refused(tiny_voc, content, reason):
    (tiny_voc / "ImageSets" / "Segmentation" / "bad.txt").write_text(content)
    with pytest.raises(DataError, match=rf"bad\.txt.*{reason}"):
        voc.read_split(tiny_voc, "bad")


def test_built_in_splits_are_checked_like_files(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"val_half\.txt: the split is empty"):
        voc.read_split(tiny_voc, "val_half")
    with pytest.raises(DataError, match=r"trainval\.txt: the name 'b' stands twice"):
        voc.read_split(tiny_voc, "trainval")


def test_unknown_split_names_those_that_are_there(tiny_voc):
    with pytest.raises(DataError, match="no such split; found: train"):
        voc.read_split(tiny_voc, "tset")
