"""Shards whose images or masks have changed since are told, and unchanged files are not read again."""

import os
import shutil

import numpy as np
import pytest
from conftest import NAMES, write_mask
from PIL import Image

from deeplab.data.shards import sources
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.errors import DataError


def _touched(path, new):
    """Another content of the same size, if `new`, with the times that the file had."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    if new:
        with Image.open(path) as mask:
            labels = np.array(mask)
        write_mask(path, labels[::-1])
        content = path.read_bytes().ljust(len(content), b"\0")
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("has_sources", [True, False])
def test_changed_contents_are_noticed_and_others_are_not(tiny_voc, tmp_path, has_sources):
    """Without the list of sources, as shards of earlier versions are, the shards themselves are compared."""
    settings = ShardSettings(voc_dir=tiny_voc)
    split, mask = prepare(settings, tmp_path / "shards", "train", NAMES), tiny_voc / "SegmentationClass" / "b.png"
    mask.write_bytes(mask.read_bytes() + bytes(100))  # so that another content can have the same size
    with pytest.raises(DataError, match=r"made from other files .*, such as .*b\.png"):
        prepare(settings, tmp_path / "shards", "train", NAMES)
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    split = prepare(settings, tmp_path / "shards", "train", NAMES)
    listed = tmp_path / "shards" / "train.sources.txt"

    _touched(mask, new=False)
    if not has_sources:
        listed.unlink()
    assert prepare(settings, tmp_path / "shards", "train", NAMES) == split
    assert listed.exists()
    _touched(mask, new=True)
    if not has_sources:
        listed.write_text("of another program\n")
    with pytest.raises(DataError, match=r"train\.json: these shards are out of date: .*b\.png has changed since"):
        prepare(settings, tmp_path / "shards", "train", NAMES)


@pytest.mark.parametrize("is_in_order", [True, False])
def test_unchanged_files_are_not_read_again(tiny_voc, tmp_path, monkeypatch, is_in_order):
    """In the order of the examples, their list is not kept in memory either; that of 0.1.0 is in the shards' order."""
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        shutil.copy(tiny_voc / folder / f"a.{ending}", tiny_voc / folder / f"c.{ending}")
    (tiny_voc / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\n")
    settings = ShardSettings(voc_dir=tiny_voc, num_shards=2)  # of a and c, and of b
    split = prepare(settings, tmp_path / "shards", "train", NAMES)
    listed = tmp_path / "shards" / "train.sources.txt"
    lines = listed.read_text().splitlines(keepends=True)
    assert [line[-2] for line in lines] == [*"aabbcc"]
    monkeypatch.setattr(sources, "digest", None)
    if is_in_order:
        monkeypatch.setattr(sources, "read_sources", None)
    else:
        listed.write_text("".join([*lines[:2], *lines[4:], *lines[2:4]]))
    assert prepare(settings, tmp_path / "shards", "train", NAMES) == split


def test_removed_and_added_files_are_noticed(tiny_voc, tmp_path):
    """Against shards that leave out an example without a mask."""
    mask = tiny_voc / "SegmentationClass" / "b.png"
    content = mask.read_bytes()
    mask.unlink()
    settings = ShardSettings(voc_dir=tiny_voc, max_bad_examples=1)
    split = prepare(settings, tmp_path / "shards", "train", NAMES)
    assert prepare(settings, tmp_path / "shards", "train", NAMES) == split
    mask.write_bytes(content)
    with pytest.raises(DataError, match=r"made from other files .*, such as .*b\.png"):
        prepare(settings, tmp_path / "shards", "train", NAMES)
    mask.unlink()
    (tiny_voc / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"made from other files .*, such as .*a\.jpg"):
        prepare(settings, tmp_path / "shards", "train", NAMES)


def test_files_that_were_copied_are_read_once(tiny_voc, tmp_path):
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    shutil.copytree(tiny_voc, tmp_path / "copy")
    before = (tmp_path / "shards" / "train.sources.txt").read_text()
    prepare(ShardSettings(voc_dir=tmp_path / "copy"), tmp_path / "shards", "train", NAMES)
    assert (tmp_path / "shards" / "train.sources.txt").read_text() != before
