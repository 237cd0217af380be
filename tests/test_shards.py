"""Shards: what goes in comes out; what does not belong is refused."""

import concurrent.futures
import contextlib
import os
import signal
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_mask
from PIL import Image

from deeplab.data import records, voc
from deeplab.data import shards as shards_module
from deeplab.data.classes import ClassTable
from deeplab.data.shards import ShardSettings, prepare
from deeplab.data.split import Split
from deeplab.errors import DataError, DeepLabError
from deeplab.files import locked

NAMES = ("background", "one", "two")


def _read(folder, name):
    split = Split.read(folder, name)
    stored = tf.data.TFRecordDataset(split.shard_paths)
    return {features["id"].numpy().decode(): features for features in map(records.parse_example, stored)}


def test_shards_round_trip_bit_for_bit(shapes_dir, shards):
    examples = _read(shards, "train")
    assert sorted(examples) == sorted(voc.read_split(shapes_dir, "train"))
    for pair in voc.pairs(shapes_dir, "train"):
        features = examples[pair.name]
        assert features["image/jpeg"].numpy() == pair.image.read_bytes()
        with Image.open(pair.mask) as mask:
            expected = np.array(mask)
        image, label = records.decode_example(features)
        np.testing.assert_array_equal(label[..., 0], expected)
        assert (int(features["height"]), int(features["width"])) == expected.shape == image.shape[:2]


def test_real_voc_masks_round_trip(voc_sample, tmp_path):
    prepare(ShardSettings(voc_dir=voc_sample), tmp_path, "trainval", voc.CLASS_NAMES)
    examples = _read(tmp_path, "trainval")
    assert len(examples) == 7
    for pair in voc.pairs(voc_sample, "trainval"):
        with Image.open(pair.mask) as mask:
            expected = np.array(mask)
        _, label = records.decode_example(examples[pair.name])
        np.testing.assert_array_equal(label[..., 0], expected)


def test_shards_that_stand_are_kept_and_others_refused(tiny_voc, tmp_path):
    first = prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    assert prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == times
    with pytest.raises(DataError, match="made from other files or classes"):
        prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", (*NAMES, "three"))


def test_parallel_processes_write_what_one_writes(shapes_dir, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "EXAMPLES_PER_PROCESS", 5)
    monkeypatch.setattr(shards_module.os, "cpu_count", lambda: 2)
    parallel = prepare(ShardSettings(voc_dir=shapes_dir, num_shards=3), tmp_path, "train", voc.CLASS_NAMES)
    assert replace(parallel, folder=shards) == Split.read(shards, "train")


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
    Image.fromarray(np.ones((20, 30), np.uint16)).save(voc_dir / "SegmentationClass" / "b.png")


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
        (_rgb_mask, r"b\.png: holds colours, and the classes have none.*`NAME: #000000`"),
        (_large_label, r"b\.png: label 3, but there are 3 classes"),
        (_other_size, r"b\.png: 31x20 pixels, its image b\.jpg is 30x20"),
        (_broken_mask, r"b\.png: cannot be read as an image"),
        (_changed_mask, r"b\.png: cannot be read as an image"),
        (_text_mask, r"b\.png: cannot be read as an image"),
        (_truncated_image, r"b\.jpg: (unreadable JPEG|cannot be read)"),
        (_missing_image, r"b\.jpg: missing; nothing of that name is there, but a\.jpg"),
        (_missing_mask, r"b\.png: missing; nothing of that name is there, but a\.png"),
        (_four_bit_mask, r"b\.png: a PNG of mode L, 4 bits"),
        (_sixteen_bit_mask, r"b\.png: a PNG of mode I;16, 16 bits"),
        (_bomb_mask, r"b\.png: .*(exceeds limit|more than)"),
        (_bomb_image, r"b\.jpg: 65000x65000 pixels, more than 89,478,485"),
    ],
)
def test_bad_examples_are_refused_by_name_and_leave_no_manifest(tiny_voc, tmp_path, damage, reason):
    damage(tiny_voc)
    with pytest.raises(DataError, match=reason):
        prepare(ShardSettings(voc_dir=tiny_voc, num_shards=1), tmp_path / "shards", "train", NAMES)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".lock"]


def test_bad_examples_up_to_a_number_are_left_out_and_named(tiny_voc, tmp_path, caplog):
    good = records.encode_example(voc.pairs(tiny_voc, "train")[0], ClassTable.of_names(NAMES))[0]
    _rgb_mask(tiny_voc)
    split = prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=1), tmp_path / "shards", "train", NAMES)
    assert (split.num_examples, split.num_bad_examples) == (1, 1)
    stored = tf.data.TFRecordDataset(split.shard_paths)
    assert list(stored.as_numpy_iterator()) == [good]
    (line,) = (tmp_path / "shards" / "train.bad_examples.txt").read_text().splitlines()
    assert "b.png: holds colours" in line
    assert "1 bad examples of train are left out" in caplog.text
    assert prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=1), tmp_path / "shards", "train", NAMES) == split
    with pytest.raises(DataError, match="names 1 bad examples that these shards leave out, --max_bad_examples=0"):
        prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)


def test_classes_without_a_pixel_are_told(tiny_voc, tmp_path, caplog):
    for name in "ab":
        write_mask(tiny_voc / "SegmentationClass" / f"{name}.png", np.repeat([[0, 2]], 20, 0).repeat(15, 1))
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    assert "train has no pixel of one" in caplog.text


def test_a_split_of_bad_examples_alone_is_refused(tiny_voc, tmp_path):
    for name in "ab":
        (tiny_voc / "JPEGImages" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: missing.*2 problems in all"):
        prepare(ShardSettings(voc_dir=tiny_voc, max_bad_examples=5), tmp_path / "shards", "train", NAMES)


def test_a_second_process_waits_for_the_first_and_takes_its_shards(tiny_voc, tmp_path):
    with locked(tmp_path / "shards"):
        pool = concurrent.futures.ThreadPoolExecutor()
        second = pool.submit(prepare, ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
        with pytest.raises(concurrent.futures.TimeoutError):
            second.result(timeout=1)
        settings = ShardSettings(voc_dir=tiny_voc, num_shards=1)
        job = shards_module._Job.of(settings, tmp_path / "shards", "train", ClassTable.of_names(NAMES))
        shards_module._write(settings, [job])
        first = Split.read(tmp_path / "shards", "train")
    assert second.result(timeout=60) == first


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_writing_is_told(shapes_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "EXAMPLES_PER_PROCESS", 5)
    monkeypatch.setattr(shards_module, "_write_shard", _die)
    with pytest.raises(DeepLabError, match="writing train shards: a process died"):
        prepare(ShardSettings(voc_dir=shapes_dir), tmp_path, "train", voc.CLASS_NAMES)
    assert not (tmp_path / "train.json").exists()
