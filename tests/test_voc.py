"""VOC's classes, colours and splits."""

import random
import unicodedata

import numpy as np
import pytest
from PIL import Image

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc
from deeplab.errors import DataError
from deeplab.labels import palette


def test_palette_is_vocs_published_one():
    colors = palette()
    # VOC devkit, VOClabelcolormap.m: aeroplane, bicycle, bird, person, tvmonitor, void.
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128)}
    published |= {20: (0, 64, 128), 255: (224, 224, 192)}
    for index, color in published.items():
        assert tuple(colors[index]) == color


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
    [("", "empty"), ("a\na\n", "duplicate name 'a'"), ("../a\n", "not a plain file name"), ("..\n", "not a plain")],
)
def test_bad_split_files_are_refused(tiny_voc, content, reason):
    (tiny_voc / "ImageSets" / "Segmentation" / "bad.txt").write_text(content)
    with pytest.raises(DataError, match=rf"bad\.txt.*{reason}"):
        voc.read_split(tiny_voc, "bad")


def test_built_in_splits_are_checked_like_files(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"val_half\.txt: the split is empty"):
        voc.read_split(tiny_voc, "val_half")
    with pytest.raises(DataError, match=r"trainval\.txt: duplicate name 'b'"):
        voc.read_split(tiny_voc, "trainval")


def test_unknown_split_names_those_that_are_there(tiny_voc):
    with pytest.raises(DataError, match="no such split; found: train"):
        voc.read_split(tiny_voc, "tset")


def _write_list(voc_dir, content, name="train"):
    content = content if isinstance(content, bytes) else content.encode()
    (voc_dir / "ImageSets" / "Segmentation" / f"{name}.txt").write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        "a.jpg\nb.jpg\n",
        "a.JPG\nb.png\n",  # whatever the ending says
        "./a\nJPEGImages/b.jpg\n",
        "JPEGImages\\a.jpg\nb\n",
        "/JPEGImages/a.jpg /SegmentationClass/a.png\nJPEGImages/b.jpg\tSegmentationClass/b.png\n",
        "JPEGImages/a.jpg,SegmentationClass/a.png\nb\n",
        "a\nb\n".encode("utf-16"),
        b"\xfe\xff" + "a\r\nb\r\n".encode("utf-16-be"),
        "a\r\nb\r\n".encode("utf-16-le"),
        "\ufeffa\nb\n",
    ],
)
def test_lists_as_tools_write_them(tiny_voc, content):
    _write_list(tiny_voc, content)
    assert voc.read_split(tiny_voc, "train") == ["a", "b"]
    folders = tiny_voc / "JPEGImages", tiny_voc / "SegmentationClass"
    for pair in voc.pairs(tiny_voc, "train"):
        assert (pair.image, pair.mask, pair.problem) == (
            folders[0] / f"{pair.name}.jpg",
            folders[1] / f"{pair.name}.png",
            "",
        )
    assert voc.split_images(tiny_voc, "train") == [(name, folders[0] / f"{name}.jpg") for name in "ab"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a 1\nb -1\n", "line 1: 2 columns \\('a 1'\\); expected one name per line"),
        ("a\nb,1\n", "line 2: 2 columns"),
        ("a\na.jpg b.png c.png\n", "line 2: 3 columns"),
        ("a\nJPEGImages/a.jpg SegmentationClass/none.png\n", "duplicate name 'a', examples 1 and 2 of it"),
        ("a\nother/x.jpg other/x.png\n", r"line 2: 2 columns \(.*the paths of an image and its mask from .*voc, which"),
        ("a\nno such 1.0 picture.jpg\n", r"JPEGImages/no such 1\.0 picture\.jpg: missing"),
        ("# of Tuesday\na\n", "line 1: '# of Tuesday': comments"),
        ("a\na.jpg\n", "duplicate name 'a'"),
        ("day1/../../a\n", "not a plain file name"),
        ("C:\\a\n", "is not a plain|missing"),
    ],
)
def test_lines_that_are_no_names_are_refused_by_number(tiny_voc, content, reason):
    _write_list(tiny_voc, content)
    with pytest.raises(DataError, match=reason):
        for pair in voc.pairs(tiny_voc, "train"):
            if pair.problem:
                raise DataError(pair.problem)


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", ";", "  "])
def test_pairs_of_paths_with_blanks_are_read(tiny_voc, separator):
    images = tiny_voc / "JPEGImages"
    masks = tiny_voc / "SegmentationClass"
    (images / "a.jpg").rename(images / "plot 1, of 2.jpg")
    (masks / "a.png").rename(masks / "mask of plot 1.png")
    (masks / "b.png").rename(masks / "b c.png")
    left = f"JPEGImages/plot 1, of 2.jpg{separator}SegmentationClass/mask of plot 1.png"
    _write_list(tiny_voc, f"{left}\nJPEGImages/b.jpg{separator}SegmentationClass/b c.png\n")
    assert [(pair.name, pair.image, pair.mask, pair.problem) for pair in voc.pairs(tiny_voc, "train")] == [
        ("plot 1, of 2", images / "plot 1, of 2.jpg", masks / "mask of plot 1.png", ""),
        ("b", images / "b.jpg", masks / "b c.png", ""),
    ]


def test_the_missing_half_of_a_pair_is_named(tiny_voc, tmp_path):
    (tiny_voc / "JPEGImages" / "a.jpg").rename(tiny_voc / "JPEGImages" / "a b.jpg")
    (tiny_voc / "JPEGImages" / "b.jpg").unlink()
    _write_list(tiny_voc, "JPEGImages/a b.jpg SegmentationClass/a b.png\nJPEGImages/b.jpg SegmentationClass/b.png\n")
    settings = ShardSettings(voc_dir=tiny_voc)
    with pytest.raises(DataError, match=r"SegmentationClass/a b\.png: no such file \(2 problems in all"):
        prepare(settings, tmp_path / "shards", "train", ("background", "one", "two"))


def test_names_in_subfolders_are_kept(tiny_voc):
    for folder in ("JPEGImages", "SegmentationClass"):
        for name in "ab":
            (file,) = (tiny_voc / folder).glob(f"{name}.*")
            (tiny_voc / folder / f"day_{name}").mkdir()
            file.rename(tiny_voc / folder / f"day_{name}" / f"x{file.suffix}")
    _write_list(tiny_voc, "day_a/x\nday_b\\x.jpg\n")
    assert voc.read_split(tiny_voc, "train") == ["day_a/x", "day_b/x"]
    assert [pair.problem for pair in voc.pairs(tiny_voc, "train")] == ["", ""]


def test_pairs_of_paths_outside_the_folders_have_the_paths_name(tiny_voc, tmp_path):
    (tiny_voc / "JPEGImages").rename(tiny_voc / "images")
    (tiny_voc / "SegmentationClass").rename(tmp_path / "masks")
    _write_list(tiny_voc, f"images/a.jpg {tmp_path}/masks/a.png\n{tiny_voc}/images/b.jpg {tmp_path}/masks/b.png\n")
    expected = [("images/a", tmp_path / "masks" / "a.png"), ("images/b", tmp_path / "masks" / "b.png")]
    assert [(pair.name, pair.mask) for pair in voc.pairs(tiny_voc, "train", tmp_path / "masks")] == expected
    with pytest.raises(DataError, match=rf"train\.txt: line 1: a\.png is outside {tiny_voc} and .*; move or link"):
        voc.pairs(tiny_voc, "train")
    (tiny_voc / "SegmentationClass").symlink_to(tmp_path / "masks")
    assert [(pair.name, pair.mask) for pair in voc.pairs(tiny_voc, "train")] == expected


def test_names_may_differ_in_unicode_form(tiny_voc):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tiny_voc / folder / f"a.{ending}").rename(tiny_voc / folder / f"{decomposed}.{ending}")
    _write_list(tiny_voc, f"{composed}\nb\n")
    pair, _ = voc.pairs(tiny_voc, "train")
    assert (pair.name, pair.image.name, pair.mask.name, pair.problem) == (
        composed,
        f"{decomposed}.jpg",
        f"{decomposed}.png",
        "",
    )
    _write_list(tiny_voc, f"{composed}\n{decomposed}\n")
    with pytest.raises(DataError, match="duplicate name"):
        voc.read_split(tiny_voc, "train")


def test_a_list_that_says_the_ending_decides_between_two_files(tiny_voc):
    Image.new("RGB", (30, 20)).save(tiny_voc / "JPEGImages" / "a.png")
    first, _ = voc.pairs(tiny_voc, "train")
    assert "both a.jpg and a.png could be 'a'" in first.problem
    _write_list(tiny_voc, "a.png\nb\n")
    first, _ = voc.pairs(tiny_voc, "train")
    assert (first.name, first.image.name, first.problem) == ("a", "a.png", "")


def test_missing_files_are_told_with_what_is_there(tiny_voc):
    (tiny_voc / "SegmentationClass" / "a.png").rename(tiny_voc / "SegmentationClass" / "a_mask.png")
    (tiny_voc / "JPEGImages" / "b.jpg").rename(tiny_voc / "JPEGImages" / "B.jpg")
    first, second = voc.pairs(tiny_voc, "train")
    assert first.problem.endswith("SegmentationClass/a.png: missing; found instead: a_mask.png")
    assert second.problem.endswith("JPEGImages/b.jpg: missing; found instead: B.jpg")
