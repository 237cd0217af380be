"""Data as people have it: the cases of ../shared/cases that need no converter, through the real preparation."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED_DATA
from forked import run
from PIL import Image, ImageOps

from deeplab.data.shards import records
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import write_shards
from deeplab.data.source import voc
from deeplab.data.source.download import DownloadSettings
from deeplab.errors import DataError

CASES = SHARED_DATA.parent / "cases"
TWO_VALUES = "background: 0\nobject: 255\n"
TWO_COLORS = "background: #000000\nobject: #ffffff\n"
PALETTE = "background: #000000\nclass1: #800000\nclass2: #008000\n"


@pytest.fixture
def case(tmp_path):
    """Copies a case to where it can be changed."""

    def copy(name):
        if not (CASES / name).exists():
            pytest.skip(f"needs {CASES / name}")
        return Path(shutil.copytree(CASES / name, tmp_path / "voc", copy_function=shutil.copyfile))

    return copy


def _prepare(voc_dir, table=None, **flags):
    """Shards of train and val, as train.py writes them; `table` is the text of --class_names."""
    if table is not None:
        flags["class_names"] = voc_dir.parent / "table.txt"
        flags["class_names"].write_text(table)
    shards = voc_dir.parent / "shards"
    write_shards(ShardSettings(voc_dir=voc_dir, num_shards=2, **flags), DownloadSettings(), shards)
    return shards


def _examples(shards, *splits):
    """(image, label, features) of all examples by name, decoded as Pillow decodes."""
    found = {}
    for split in splits:
        for record in tf.data.TFRecordDataset(Split.read(shards, split).shard_paths):
            features = records.parse_example(record)
            image = tf.io.decode_jpeg(features["image/jpeg"], channels=3, dct_method="INTEGER_ACCURATE").numpy()
            label = records.decode_example(features)[1][..., 0].numpy()
            found[features["id"].numpy().decode()] = (image, label)
    return found


def _truth(name):
    with Image.open(CASES / "truth_index_masks" / f"{name[-7:]}.png") as mask:
        return np.array(mask)


def _pixels(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


RIGHT = {
    "img_png": {},
    "img_tif": {},
    "img_png_rgba": {},
    "img_JPG": {},
    "img_png_named_jpg": {},
    "exif_180": {"exif": "ignore"},
    "mask_0_255": {"table": TWO_VALUES},
    "mask_1bit": {},
    "mask_255_rgb": {"table": TWO_COLORS},
    "mask_trimap_123": {"table": "foreground: 1\nbackground: 2\nborder: 3\n"},
    "mask_palette_per_file": {"table": PALETTE},
    "split_jpg_endings": {},
    "split_overlap": {},
    "masks_changed_same_size": {},
}


def _expected(name, pair):
    """The truth of a case: by number, or where the masks are of other objects than those, their own pixels."""
    with Image.open(pair.mask) as mask:
        rgb = np.array(mask.convert("RGB"))
    if name in ("mask_0_255", "mask_1bit", "mask_255_rgb"):
        return rgb[..., 0] > 0
    if name == "mask_palette_per_file":
        return rgb[..., 0] // 128 + rgb[..., 1] // 128 * 2
    return _truth(pair.name)


@pytest.mark.parametrize("name", RIGHT)
def test_prepared_pixels_are_those_of_the_files(case, name):
    voc_dir = case(name)
    shards = _prepare(voc_dir, **RIGHT[name])
    examples = _examples(shards, "train", "val")
    assert len(examples) == 16
    for pair in voc.pairs(voc_dir, "train") + voc.pairs(voc_dir, "val"):
        image, label = examples[pair.name]
        np.testing.assert_array_equal(image, _pixels(pair.image))
        np.testing.assert_array_equal(label, _expected(name, pair))


def test_cvats_export_is_taken_as_it_is(case):
    voc_dir = case("cvat_as_is")
    shards = _prepare(voc_dir, train_split="default", val_split="")
    assert Split.read(shards, "default").class_names == ("background", "cat", "dog")
    examples = _examples(shards, "default")
    assert len(examples) == 16
    for name, (image, label) in examples.items():
        np.testing.assert_array_equal(image, _pixels(voc_dir / "JPEGImages" / f"{name}.jpg"))
        np.testing.assert_array_equal(label, _truth(name))


def test_turned_images_are_stored_as_they_are_shown(case):
    voc_dir = case("exif_180")
    for name, (image, _) in _examples(_prepare(voc_dir, exif="turn"), "train", "val").items():
        with Image.open(voc_dir / "JPEGImages" / f"{name}.jpg") as stored:
            np.testing.assert_array_equal(image, np.array(ImageOps.exif_transpose(stored)))


REFUSED = {
    "img_png_16": ({}, r"img_004\.png: 16 bits per channel, but only 8-bit images are supported; rescale"),
    "exif_180": ({}, r"img_004\.jpg: EXIF orientation 3 turns .*--exif=turn.*--exif=ignore"),
    "mask_0_255": ({}, "hold only 0 and 255.*`background: 0` and `class1: 255`"),
    "mask_255_rgb": ({}, r"img_004\.png: contains colours.*`NAME: #000000`, `NAME: #ffffff`"),
    "mask_trimap_123": ({}, r"img_004\.png: label 3, but there are 3 classes.*`NAME: 3`"),
    "mask_palette_per_file": (
        {},
        r"img_\d+\.png: palette index 1 is #008000 here, but #800000 in .*img_\d+\.png",
    ),
    "mask_suffix": ({}, r"img_004\.png: missing; found instead: img_004_mask\.png"),
    "split_two_columns": ({}, r"train\.txt: line 1: 2 columns \('img_004  1'\)"),
    "cvat_as_is": ({"table": "background: 0\ncat: 1\n", "train_split": "default", "val_split": ""}, "contains colours"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_a_wrong_data_set_is_refused(case, name):
    flags, reason = REFUSED[name]
    voc_dir = case(name)
    with pytest.raises(DataError, match=reason):
        _prepare(voc_dir, **flags)
    shards = voc_dir.parent / "shards"
    assert not shards.exists() or [path.name for path in shards.iterdir()] == [".lock"]


@pytest.mark.parametrize("keeps_times", [False, True])
def test_corrected_masks_of_the_same_size_are_noticed(case, keeps_times):
    voc_dir = case("masks_changed_same_size")
    _prepare(voc_dir)
    times = {path.name: path.stat() for path in (voc_dir / "SegmentationClass").iterdir()}
    for path in (voc_dir / "fixed").iterdir():
        shutil.copyfile(path, voc_dir / "SegmentationClass" / path.name)
        if keeps_times:
            old = times[path.name]
            os.utime(voc_dir / "SegmentationClass" / path.name, ns=(old.st_atime_ns, old.st_mtime_ns))
    with pytest.raises(DataError, match=r"img_004\.png and 11 others have changed since"):
        _prepare(voc_dir)


def test_images_in_both_splits_are_counted(case, caplog):
    _prepare(case("split_overlap"))
    assert "4 of the 4 images of val are also in train" in caplog.text


def test_names_in_subfolders_are_those_of_the_examples(case):
    voc_dir = case("img_png")
    for folder in ("JPEGImages", "SegmentationClass"):
        (voc_dir / folder / "day1").mkdir()
        for path in (voc_dir / folder).glob("*.png"):
            path.rename(path.parent / "day1" / path.name)
    for path in (voc_dir / "ImageSets" / "Segmentation").iterdir():
        path.write_text("".join(f"day1/{line}\n" for line in path.read_text().splitlines()))
    examples = _examples(_prepare(voc_dir), "train", "val")
    assert sorted(examples) == [f"day1/img_{number:03d}" for number in range(16)]
    for name, (image, label) in examples.items():
        np.testing.assert_array_equal(image, _pixels(voc_dir / "JPEGImages" / f"{name}.png"))
        np.testing.assert_array_equal(label, _truth(name))


COMMANDS = {
    # name: (flags beside the places, table, exit status, last line)
    "img_png_16": ((), None, 1, r"img_004\.png: 16 bits per channel"),
    "mask_0_255": ((), None, 1, "hold only 0 and 255"),
    "mask_255_rgb": ((), TWO_COLORS, 0, "done"),
    "cvat_as_is": (("--train_split=default", "--val_split="), None, 0, "done"),
    "exif_180": (("--exif=turn",), None, 0, "done"),
}
SMALL = (
    *("--backbone=tiny", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=4"),
    *("--train_steps=2", "--num_shards=2"),
)


@pytest.mark.slow
def test_the_whole_program_on_peoples_data(tmp_path):
    """From the folder as it is to a trained model, each in processes of their own."""
    if not CASES.exists():
        pytest.skip(f"needs {CASES}")

    for name, (flags, table, status, line) in COMMANDS.items():
        (tmp_path / name).mkdir()
        if table:
            (tmp_path / name / "table.txt").write_text(table)
            flags = (*flags, f"--class_names={tmp_path / name / 'table.txt'}")
        places = [f"--tfrecord_dir={tmp_path / name / 'shards'}", f"--model_dir={tmp_path / name / 'run'}"]
        done = run("train.py", f"--voc_dir={CASES / name}", *places, *SMALL, *flags, expect=status)
        assert re.search(line, done.stderr.splitlines()[-1]), (name, done.stderr[-2000:])
        assert "Traceback" not in done.stderr
    scores = json.loads((tmp_path / "mask_255_rgb" / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(scores["per_class_iou"]) == {"background", "object"}
