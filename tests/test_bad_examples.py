"""Images and masks that cannot be used are refused by name, or left out up to a number."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import NAMES, write_mask
from PIL import Image

from deeplab.data.shards import records
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare, prepare_splits
from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable
from deeplab.errors import DataError


def _rgb_mask(voc_dir):
    Image.new("RGB", (30, 20)).save(voc_dir / "SegmentationClass" / "b.png")


def _large_label(voc_dir):
    write_mask(voc_dir / "SegmentationClass" / "b.png", np.full((20, 30), 3))


def _other_size(voc_dir):
    write_mask(voc_dir / "SegmentationClass" / "b.png", np.zeros((20, 31)))


def _broken_mask(voc_dir):
    path = voc_dir / "SegmentationClass" / "b.png"
    path.write_bytes(path.read_bytes()[:60])


def _changed_mask(voc_dir):
    """Bits of the compressed rows, which Pillow would decode to other classes."""
    path = voc_dir / "SegmentationClass" / "b.png"
    content, before = path.read_bytes(), np.asarray(Image.open(path))
    for place in reversed(range(len(content) - 16)):  # from the last of the compressed rows on
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(OSError, SyntaxError):
            if (np.asarray(Image.open(path)) != before).any():
                return
    raise AssertionError("Pillow reads no changed row")


def _text_mask(voc_dir):
    (voc_dir / "SegmentationClass" / "b.png").write_text("no picture")


def _truncated_image(voc_dir):
    path = voc_dir / "JPEGImages" / "b.jpg"
    path.write_bytes(path.read_bytes()[:400])


def _missing_image(voc_dir):
    (voc_dir / "JPEGImages" / "b.jpg").unlink()


def _missing_mask(voc_dir):
    (voc_dir / "SegmentationClass" / "b.png").unlink()


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width, height, bit_depth, rows):
    """A greyscale PNG, written from the format's description."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    )


def _four_bit_mask(voc_dir):
    """Class 1 everywhere; Pillow would read it as 17."""
    (voc_dir / "SegmentationClass" / "b.png").write_bytes(_png(30, 20, 4, (b"\0" + b"\x11" * 15) * 20))


def _sixteen_bit_mask(voc_dir):
    Image.fromarray(np.full((20, 30), 300, np.uint16)).save(voc_dir / "SegmentationClass" / "b.png")


def _bomb_mask(voc_dir):
    (voc_dir / "SegmentationClass" / "b.png").write_bytes(_png(60000, 60000, 8, b""))


def _bomb_image(voc_dir):
    """A JPEG whose header claims 65000x65000 pixels."""
    path = voc_dir / "JPEGImages" / "b.jpg"
    content = bytearray(path.read_bytes())
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_rgb_mask, r"b\.png: contains colours, but the classes are plain names.*`NAME: #000000`"),
        (_large_label, r"b\.png: label 3, but there are 3 classes"),
        (_other_size, r"b\.png: 31x20 pixels, its image b\.jpg is 30x20"),
        (_broken_mask, r"b\.png: cannot be read as an image"),
        (_changed_mask, r"b\.png: cannot be read as an image"),
        (_text_mask, r"b\.png: cannot be read as an image"),
        (_truncated_image, r"b\.jpg: (unreadable JPEG|cannot be read)"),
        (_missing_image, r"b\.jpg: missing; the folder holds a\.jpg"),
        (_missing_mask, r"b\.png: missing; the folder holds a\.png"),
        (_four_bit_mask, r"b\.png: a PNG of mode L, 4 bits"),
        (_sixteen_bit_mask, r"b\.png: value 300 in a mask of more than 8 bits"),
        (_bomb_mask, r"b\.png: .*(exceeds limit|more than)"),
        (_bomb_image, r"b\.jpg: .*(exceeds limit|more than)"),
    ],
)
def test_bad_examples_are_refused_by_name_and_leave_no_manifest(tiny_voc, tmp_path, damage, reason):
    damage(tiny_voc)
    with pytest.raises(DataError, match=reason):
        prepare(ShardSettings(voc_dir=tiny_voc, num_shards=1), tmp_path / "shards", "train", NAMES)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".lock"]


def test_problems_of_all_splits_are_listed_before_anything_is_written(tiny_voc, tmp_path, caplog):
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\nc\n")
    _large_label(tiny_voc)
    with pytest.raises(DataError, match=r"b\.png: label 3.*\(3 problems in all, no manifest written\)"):
        prepare_splits(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", ["train", "val"], NAMES)
    assert "c.jpg: missing" in caplog.text
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".lock"]


def test_bad_examples_up_to_a_number_are_left_out_and_named(tiny_voc, tmp_path, caplog):
    good = next(
        records.encode_examples(voc.pairs(tiny_voc, "train")[0], records.Form(ClassTable.of_names(NAMES)))
    ).record
    _rgb_mask(tiny_voc)
    split = prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=1), tmp_path / "shards", "train", NAMES)
    assert (split.num_examples, split.num_bad_examples) == (1, 1)
    stored = tf.data.TFRecordDataset(split.shard_paths)
    assert list(stored.as_numpy_iterator()) == [good]
    (line,) = (tmp_path / "shards" / "train.bad_examples.txt").read_text().splitlines()
    assert "b.png: contains colours" in line
    assert "1 bad examples of train are left out" in caplog.text
    assert prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=1), tmp_path / "shards", "train", NAMES) == split
    with pytest.raises(DataError, match="these shards leave out 1 bad examples, more than --max_bad_examples=0"):
        prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)


def test_a_split_of_bad_examples_alone_is_refused(tiny_voc, tmp_path):
    for name in "ab":
        (tiny_voc / "JPEGImages" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: missing.*2 problems in all"):
        prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=5), tmp_path / "shards", "train", NAMES)
