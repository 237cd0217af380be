"""Shards: what goes in comes out, by masks, palettes, turns and tiles; they are written whole and once."""

import concurrent.futures
import functools
import logging
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import NAMES, write_mask
from PIL import Image, ImageOps

from deeplab.data.shards import records
from deeplab.data.shards import write as shards_module
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import prepare, prepare_splits
from deeplab.data.source import images, voc
from deeplab.data.source.classes import ClassTable
from deeplab.errors import DataError, DeepLabError
from deeplab.files import locked


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


def test_colors_of_pictures_change_without_new_shards(tiny_voc, tmp_path):
    """They stand in the manifest, from where they are read; shards of a plain list have none there."""
    settings = ShardSettings(voc_dir=tiny_voc, train_split="train", val_split=None)
    shards = tmp_path / "shards"
    plain = ClassTable.of_names(NAMES)
    write_shards_of = functools.partial(prepare_splits, settings, shards, ["train"])
    write_shards_of(plain)
    before = {path: path.read_bytes() for path in shards.iterdir()}
    assert Split.read(shards, "train").class_colors == ()
    colors = ("#0a0b0c", "", "")
    write_shards_of(replace(plain, shown=colors))
    split = Split.read(shards, "train")
    assert split.colored_names.colors == colors
    assert split.colored_names == NAMES
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ["train.json"]
    write_shards_of(plain)
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_parallel_processes_write_what_one_writes(shapes_dir, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "EXAMPLES_PER_PROCESS", 5)
    monkeypatch.setattr(shards_module.os, "cpu_count", lambda: 2)
    parallel = prepare(ShardSettings(voc_dir=shapes_dir, num_shards=3), tmp_path, "train", voc.CLASS_NAMES)
    assert replace(parallel, folder=shards) == Split.read(shards, "train")


def test_classes_without_a_pixel_are_told(tiny_voc, tmp_path, caplog):
    for name in "ab":
        write_mask(tiny_voc / "SegmentationClass" / f"{name}.png", np.repeat([[0, 2]], 20, 0).repeat(15, 1))
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    assert "train has no pixel of one" in caplog.text


def test_a_second_process_waits_for_the_first_and_takes_its_shards(tiny_voc, tmp_path):
    with locked(tmp_path / "shards"):
        pool = concurrent.futures.ThreadPoolExecutor()
        second = pool.submit(prepare, ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
        with pytest.raises(concurrent.futures.TimeoutError):
            second.result(timeout=1)
        settings = ShardSettings(voc_dir=tiny_voc, num_shards=1)
        job = shards_module._job(settings, tmp_path / "shards", "train", ClassTable.of_names(NAMES))
        shards_module._write(settings, [job])
        first = Split.read(tmp_path / "shards", "train")
    assert second.result(timeout=60) == first


def _with_palette(path, indices, colors):
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(bytes(np.array(colors, np.uint8).ravel()))
    image.save(path)


@pytest.mark.parametrize("split_names", [["train"], ["train", "val"]])
def test_palettes_that_disagree_are_refused_by_two_names(tiny_voc, tmp_path, split_names):
    masks = tiny_voc / "SegmentationClass"
    shutil.copy(tiny_voc / "JPEGImages" / "a.jpg", tiny_voc / "JPEGImages" / "c.jpg")
    stripes = np.repeat([[0, 1]], 20, 0).repeat(15, 1)
    for name, color in (("a", (200, 0, 0)), ("b", (200, 0, 0)), ("c", (0, 200, 0))):
        _with_palette(masks / f"{name}.png", stripes, [(0, 0, 0), color])
    lists = tiny_voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("c\n")
    if split_names == ["train"]:
        (lists / "train.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"c\.png: palette index 1 is #00c800 here, but #c80000 in .*[ab]\.png"):
        prepare_splits(ShardSettings(voc_dir=tiny_voc, num_shards=1), tmp_path / "shards", split_names, NAMES)
    colors = ClassTable(("background", "red", "green"), colors={(0, 0, 0): 0, (200, 0, 0): 1, (0, 200, 0): 2})
    prepare_splits(ShardSettings(voc_dir=tiny_voc, num_shards=1), tmp_path / "shards", split_names, colors)
    label = records.decode_example(_read(tmp_path / "shards", split_names[-1])["c"])[1][..., 0]
    np.testing.assert_array_equal(label, stripes * 2)


def test_unused_and_gray_entries_of_palettes_may_differ(tiny_voc, tmp_path):
    stripes = np.repeat([[0, 1]], 20, 0).repeat(15, 1)
    _with_palette(tiny_voc / "SegmentationClass" / "a.png", stripes, [(0, 0, 0), (200, 0, 0), (1, 2, 3)])
    _with_palette(tiny_voc / "SegmentationClass" / "b.png", stripes, [(0, 0, 0), (1, 1, 1), (3, 2, 1)])
    assert prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES).num_examples == 2


@pytest.mark.parametrize(
    ("names", "values", "present"),
    [
        (NAMES, [255], "void"),
        (
            NAMES,
            [1, 255],
            "one or void",
        ),
        (
            ("alone",),
            [0],
            "alone or void",
        ),
        (NAMES, [0, 2], None),
    ],
)
def test_preparation_says_what_training_will_refuse(tiny_voc, tmp_path, caplog, names, values, present):
    for name in "ab":
        write_mask(tiny_voc / "SegmentationClass" / f"{name}.png", np.resize(values, (20, 30)))
    settings = ShardSettings(voc_dir=tiny_voc)
    split = prepare(settings, tmp_path / "shards", "train", names)
    said = [record.getMessage() for record in caplog.records if "will refuse" in record.getMessage()]
    line = f"train: all pixels are {present}: train.py will refuse it, since there is nothing to learn"
    assert said == ([line] if present else [])
    if present:
        with pytest.raises(DataError, match="all pixels are of one class or void"):
            split.check_two_classes()
    else:
        split.check_two_classes()


def _turn(path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    with Image.open(path) as image:
        image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_masks_size_decides_quarter_turns(tiny_voc, tmp_path, orientation):
    """`a` was annotated as it is shown, `b` as it is stored."""
    for name in "ab":
        _turn(tiny_voc / "JPEGImages" / f"{name}.jpg", orientation)
    upright = np.arange(600).reshape(30, 20) % 3
    write_mask(tiny_voc / "SegmentationClass" / "a.png", upright)
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    examples = _read(tmp_path / "shards", "train")
    with Image.open(tiny_voc / "JPEGImages" / "a.jpg") as image:
        shown = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(records.decode_example(examples["a"])[0], shown)
    np.testing.assert_array_equal(records.decode_example(examples["a"])[1][..., 0], upright)
    assert (int(examples["a"]["height"]), int(examples["a"]["width"])) == (30, 20)
    assert examples["b"]["image/jpeg"].numpy() == (tiny_voc / "JPEGImages" / "b.jpg").read_bytes()


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_turns_that_the_size_does_not_decide_need_a_flag(tiny_voc, tmp_path, orientation):
    image = tiny_voc / "JPEGImages" / "b.jpg"
    if orientation == 6:
        Image.open(image).crop((0, 0, 20, 20)).save(image)
        write_mask(tiny_voc / "SegmentationClass" / "b.png", np.zeros((20, 20)))
    _turn(image, orientation)
    with pytest.raises(DataError, match=rf"b\.jpg: .*orientation {orientation}.*--exif=turn.*--exif=ignore"):
        prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    for exif, expected in (
        ("turn", images.read_image(image)),
        ("ignore", images.ImageFile(image).pixels(turned=False)),
    ):
        prepare(ShardSettings(voc_dir=tiny_voc, exif=exif), tmp_path / exif, "train", NAMES)
        content = _read(tmp_path / exif, "train")["b"]["image/jpeg"]
        np.testing.assert_array_equal(tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE"), expected)
    with pytest.raises(DataError, match="another class table, --exif, "):
        prepare(ShardSettings(voc_dir=tiny_voc, exif="turn"), tmp_path / "ignore", "train", NAMES)


def test_shards_of_a_failed_preparation_are_deleted(tiny_voc, tmp_path, monkeypatch):
    real = records.encode_examples

    def encode(pair, *others):
        if pair.name == "b":
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        return real(pair, *others)

    monkeypatch.setattr(shards_module, "encode_examples", encode)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        prepare(ShardSettings(voc_dir=tiny_voc, num_shards=2), tmp_path / "shards", "train", NAMES)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".lock"]


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_writing_is_told(shapes_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "EXAMPLES_PER_PROCESS", 5)
    monkeypatch.setattr(shards_module, "_write_shard", _die)
    with pytest.raises(DeepLabError, match="writing train shards: a process died"):
        prepare(ShardSettings(voc_dir=shapes_dir), tmp_path, "train", voc.CLASS_NAMES)
    assert not (tmp_path / "train.json").exists()


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_large_images_are_cut_into_tiles_with_their_positions(tiny_voc, tmp_path, caplog, ending):
    """b is cut; put together again, its tiles are the image and the mask. One more is all void."""
    caplog.set_level(logging.INFO)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8)
    labels = np.random.default_rng(1).integers(0, 2, (50, 90)).astype(np.uint8)
    labels[5:, :45] = 255
    (tiny_voc / "JPEGImages" / "b.jpg").unlink()
    Image.fromarray(pixels).save(tiny_voc / "JPEGImages" / f"b.{ending}")
    write_mask(tiny_voc / "SegmentationClass" / "b.png", labels)
    settings = ShardSettings(voc_dir=tiny_voc, tile_size=45, num_shards=2)
    split = prepare(settings, tmp_path / "shards", "train", NAMES)
    examples = _read(tmp_path / "shards", "train")
    assert set(examples) - {"a"} == {"b_y0_x0", "b_y0_x45", "b_y5_x45"} | {
        name for name in examples if name.startswith("a_")
    }
    assert "train: 1 tiles are all void" in caplog.text
    assert split.num_examples == len(examples)
    source = images.read_image(tiny_voc / "JPEGImages" / f"b.{ending}")
    for name in ("b_y0_x0", "b_y0_x45", "b_y5_x45"):
        top, left = (int(part[1:]) for part in name.split("_")[1:])
        tile = records.decode_image(examples[name]["image/jpeg"]).numpy()
        np.testing.assert_array_equal(tile, source[top : top + 45, left : left + 45])
        stored = tf.io.decode_png(examples[name]["label/png"])[..., 0]
        np.testing.assert_array_equal(stored, labels[top : top + 45, left : left + 45])
    assert prepare(settings, tmp_path / "shards", "train", NAMES) == split
    with pytest.raises(DataError, match="--exif, --tile_size or --max_pixels"):
        prepare(replace(settings, tile_overlap=0.5), tmp_path / "shards", "train", NAMES)


def test_the_limit_on_pixels_is_a_flags(tiny_voc, tmp_path):
    """And so is that on bytes, which grows with it."""
    with (tiny_voc / "JPEGImages" / "b.jpg").open("ab") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read: .* bytes, more than .*; --max_pixels raises this"):
        prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    with pytest.raises(DataError, match=r"pixels, more than --max_pixels=100"):
        prepare(ShardSettings(voc_dir=tiny_voc, max_pixels=100), tmp_path / "shards", "train", NAMES)


def test_shards_without_images_beyond_the_limit_are_not_those_of_a_higher_limit(tiny_voc, tmp_path):
    """Written anew without bad examples, they leave no list of them behind, and fit every limit."""
    Image.new("RGB", (40, 30)).save(tiny_voc / "JPEGImages" / "b.jpg")
    write_mask(tiny_voc / "SegmentationClass" / "b.png", np.ones((30, 40)))
    folder = tmp_path / "shards"
    low = ShardSettings(voc_dir=tiny_voc, max_pixels=700, max_bad_examples=1)
    high = replace(low, max_pixels=1200)
    split = prepare(low, folder, "train", NAMES)
    assert (split.num_examples, split.num_bad_examples) == (1, 1)
    assert prepare(low, folder, "train", NAMES) == split
    for other in (high, ShardSettings(voc_dir=tiny_voc, max_bad_examples=1)):
        with pytest.raises(DataError, match=r"--max_pixels\); choose another --tfrecord_dir, or delete"):
            prepare(other, folder, "train", NAMES)
    split.manifest_path.unlink()
    split = prepare(high, folder, "train", NAMES)
    assert (split.num_examples, split.num_bad_examples) == (2, 0)
    assert not (folder / "train.bad_examples.txt").exists()
    assert prepare(ShardSettings(voc_dir=tiny_voc), folder, "train", NAMES) == split
