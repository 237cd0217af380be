"""The synthetic data set."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from flag_reference import PROGRAMS, as_markdown
from PIL import Image

from deeplab.data.source import shapes, voc
from deeplab.data.source.classes import read_classes
from deeplab.files import atomic_write, write_text

ROOT = Path(__file__).resolve().parents[1]


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def draw(rng):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shapes, "draw_example", draw)
    monkeypatch.setattr(sys, "argv", ["shapes", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match=r"^deeplab\.data\.shapes: \[Errno 28\] No space left on device: '.*/new'$"):
        shapes.command()
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_the_same_every_time_and_in_voc_layout(shapes_dir, tmp_path):
    shapes.write_shapes(tmp_path / "again", num_train=10, num_val=5)
    files = _files(tmp_path / "again")
    assert files == _files(shapes_dir)
    assert len(files) == 2 * 15 + 3
    splits = {split: voc.read_split(shapes_dir, split) for split in ("train", "val")}
    assert [len(names) for names in splits.values()] == [10, 5]
    assert not set(splits["train"]) & set(splits["val"])


def test_shapes_have_void_between_object_and_background(shapes_dir):
    classes = set()
    for pair in voc.pairs(shapes_dir, "train"):
        mask = np.array(Image.open(pair.mask)).astype(int)
        classes |= set(np.unique(mask))
        for first, second in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            touching = (first != second) & (first != 255) & (second != 255)
            assert not touching.any()
    assert classes == {0, 1, 2, 3, 4, 5, 255}
    assert read_classes(shapes_dir / "class_names.txt").names == shapes.CLASS_NAMES


def test_shapes_never_overwrite(tmp_path):
    (tmp_path / "mine").mkdir()
    shapes.write_shapes(tmp_path / "mine", num_train=1, num_val=1)
    assert not list((tmp_path / "mine").iterdir())


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("new, half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.flags")), ids=lambda path: path.stem)
def test_flag_files_name_existing_flags_and_open_with_the_command(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python ")
    assert f"--flagfile=configs/{path.name}" in lines[0]
    known = as_markdown(PROGRAMS)
    for line in lines:
        assert line.startswith("#") or f"| `{line.partition('=')[0]}` |" in known, line
