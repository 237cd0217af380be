"""Tiles of large images as examples of a split."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import NAMES, write_mask
from PIL import Image

from deeplab.data.shards import records
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare_splits
from deeplab.errors import DataError, UsageError


def _add(voc_dir, name, width, split="train"):
    """One more image, 20 pixels high, of class 1."""
    Image.new("RGB", (width, 20)).save(voc_dir / "JPEGImages" / f"{name}.png")
    write_mask(voc_dir / "SegmentationClass" / f"{name}.png", np.ones((20, width)))
    with (voc_dir / "ImageSets" / "Segmentation" / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")


def _names(split):
    stored = tf.data.TFRecordDataset(split.shard_paths)
    return [records.parse_example(record)["id"].numpy().decode() for record in stored]


def test_tiles_overlap_in_the_training_split_only(tiny_voc, tmp_path):
    """So that scores count each pixel of val once; val's shards are the same for every overlap."""
    _add(tiny_voc, "v", 80, "val")
    _add(tiny_voc, "t", 80)
    settings = ShardSettings(voc_dir=tiny_voc, tile_size=40, tile_overlap=0.5, num_shards=1)
    train, val = prepare_splits(settings, tmp_path / "shards", ["train", "val"], NAMES)
    assert _names(train) == ["a", "b", "t_y0_x0", "t_y0_x20", "t_y0_x40"]
    assert _names(val) == ["v_y0_x0", "v_y0_x40"]
    assert sum(val.class_pixels) + val.void_pixels == 20 * 80
    assert prepare_splits(replace(settings, tile_overlap=0.0), tmp_path / "shards", ["val"], NAMES) == [val]
    with pytest.raises(DataError, match="--tile_size"):
        prepare_splits(replace(settings, tile_overlap=0.0), tmp_path / "shards", ["train"], NAMES)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_tile_with_the_name_of_another_image_is_refused(tiny_voc, tmp_path, num_shards):
    _add(tiny_voc, "t", 80)
    _add(tiny_voc, "t_y0_x40", 30)
    settings = ShardSettings(voc_dir=tiny_voc, tile_size=40, num_shards=num_shards)
    with pytest.raises(DataError, match=r"^t_y0_x40: the name of two examples, one of .*; rename one of them$") as info:
        prepare_splits(settings, tmp_path / "shards", ["train"], NAMES)
    assert all(f"{tiny_voc}/JPEGImages/{name}.png" in str(info.value) for name in ("t", "t_y0_x40"))
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [".lock"]


def test_an_overlap_without_tiles_is_refused():
    with pytest.raises(UsageError, match=r"^--tile_overlap=0.25 needs --tile_size$"):
        ShardSettings(tile_overlap=0.25)
