"""A split: its manifest counts what the shards hold, and damage is found."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from conftest import NAMES
from PIL import Image

from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards.settings import ShardSettings, SplitSettings
from deeplab.data.shards.split import Split, name_damaged_shard, read_splits
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc
from deeplab.errors import DataError, UsageError


def test_manifest_counts_the_pixels_of_each_class(shapes_dir, shards):
    split = Split.read(shards, "train")
    masks = []
    for pair in voc.pairs(shapes_dir, "train"):
        with Image.open(pair.mask) as mask:
            masks.append(np.array(mask))
    for index, count in enumerate(split.class_pixels):
        assert count == sum(int((mask == index).sum()) for mask in masks)
    assert split.void_pixels == sum(int((mask == 255).sum()) for mask in masks) > 0
    assert split.max_height == max(mask.shape[0] for mask in masks)
    assert split.max_width == max(mask.shape[1] for mask in masks)
    assert split.num_examples == sum(shard.num_examples for shard in split.shards) == 10
    assert len(split.shards) == 3


def _drop_shard(folder):
    next(folder.glob("*.tfrecord")).unlink()


def _shorten_shard(folder):
    path = next(folder.glob("*.tfrecord"))
    path.write_bytes(path.read_bytes()[:-1])


def _cut_manifest(folder):
    path = folder / "train.json"
    path.write_text(path.read_text()[:100])


def _drop_key(folder):
    fields = json.loads((folder / "train.json").read_text())
    del fields["shards"]
    (folder / "train.json").write_text(json.dumps(fields))


def _no_checksum(folder):
    fields = json.loads((folder / "train.json").read_text())
    del fields["checksum"]
    (folder / "train.json").write_text(json.dumps(fields))


def _rewrite(folder, **changes):
    """A manifest with a checksum that fits, which this program did not write."""
    split = Split.read(folder, "train")
    split.manifest_path.unlink()
    changed = replace(split, **changes)
    changed.write()
    return changed.manifest_path


def _other_split(folder):
    _rewrite(folder, name="val").rename(folder / "train.json")


def _shard_elsewhere(folder):
    (shard, *_) = Split.read(folder, "train").shards
    _rewrite(folder, shards=(replace(shard, name=f"../shards/{shard.name}"),))


def _other_format(folder):
    fields = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(fields | {"format_version": 99}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop_shard, "missing, though train.json lists it"),
        (_shorten_shard, "damaged"),
        (_cut_manifest, "not a manifest"),
        (_drop_key, "checksum mismatch"),
        (_no_checksum, "not a manifest"),
        (_other_split, "manifest of another split, 'val'"),
        (_shard_elsewhere, "names a shard in another folder"),
        (_other_format, "format 99"),
    ],
)
def test_damaged_shard_folders_are_refused(tiny_voc, tmp_path, damage, reason):
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", NAMES)
    damage(tmp_path / "shards")
    with pytest.raises(DataError, match=reason):
        Split.read(tmp_path / "shards", "train")


def test_a_changed_byte_is_found_by_its_checksum(tiny_voc, tmp_path):
    split = prepare(ShardSettings(voc_dir=tiny_voc, num_shards=2), tmp_path / "shards", "train", NAMES)
    split.verify()
    path = tmp_path / "shards" / split.shards[1].name
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes([content[50] ^ 4]) + content[51:])
    assert Split.read(tmp_path / "shards", "train") == split
    with pytest.raises(DataError, match=r"SHA-256 mismatch: train-00001-of-00002\.tfrecord; delete train\.json"):
        split.verify()


@pytest.mark.parametrize("record", [0, 2])
def test_a_damaged_record_is_named_with_its_file(shapes_dir, tmp_path, record):
    split = prepare(ShardSettings(voc_dir=shapes_dir, num_shards=2), tmp_path, "train", voc.CLASS_NAMES)
    path = tmp_path / split.shards[1].name
    content = bytearray(path.read_bytes())
    start = 0
    for _ in range(record):  # length (8), its checksum (4), content, its checksum (4)
        start += 16 + struct.unpack("<Q", content[start : start + 8])[0]
    content[start + 100] ^= 1
    path.write_bytes(content)
    with (
        pytest.raises(DataError, match=f"{path.name}: damaged at record {record}; delete train.json"),
        name_damaged_shard([split]),
    ):
        list(EvaluationBatches(split).for_worker().take(split.num_examples))


def test_missing_manifest_names_the_splits_that_are_there(shards):
    with pytest.raises(DataError, match="splits here: train, val"):
        Split.read(shards, "test")


def test_the_splits_of_a_run_are_checked_against_each_other_and_the_class_names(shapes_dir, shards, tmp_path):
    settings = SplitSettings(shards, verify=True)
    train, val = read_splits(settings, "train", "val", None)
    assert (train, val) == (Split.read(shards, "train"), Split.read(shards, "val"))
    assert read_splits(settings, "train", "", None) == (train, None)
    with pytest.raises(UsageError, match=r"class_names\.txt: not the classes of the shards"):
        read_splits(settings, "train", "val", shapes_dir / "class_names.txt")
    prepare(ShardSettings(voc_dir=shapes_dir), tmp_path, "train", voc.CLASS_NAMES)
    prepare(ShardSettings(voc_dir=shapes_dir), tmp_path, "val", (*voc.CLASS_NAMES, "another"))
    with pytest.raises(UsageError, match="train and val have different classes"):
        read_splits(SplitSettings(tmp_path), "train", "val", None)


def test_a_split_of_one_class_cannot_be_trained_on(shards):
    split = Split.read(shards, "train")
    split.check_two_classes()
    with pytest.raises(DataError, match=r"train\.json: all pixels are of one class or void"):
        replace(split, class_pixels=(5, 0, 0)).check_two_classes()
