"""The pictures that the command line names, and the names under which their masks are written."""

import pytest

from deeplab import predict
from deeplab.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.tif", "._a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folders_images_are_found_by_their_endings_without_hidden_files(folder):
    names = [(name, path.name) for name, path in predict.named_images([str(folder)])]
    assert names == [("a", "a.PNG"), ("b", "b.jpg"), ("c", "c.tif")]


def test_a_pattern_matches_no_hidden_files_either(folder):
    assert [name for name, _ in predict.named_images([f"{folder}/*.jpg"])] == ["b"]
    with pytest.raises(DataError, match="no pictures there"):
        predict.named_images([f"{folder}/*.webp"])


def test_standard_input_is_called_stdin(folder):
    assert [name for name, _ in predict.named_images(["-", str(folder / "b.jpg")])] == ["stdin", "b"]


def test_two_images_of_one_name_and_no_images_are_rejected(folder):
    with pytest.raises(UsageError, match="b: two images of this name"):
        predict.named_images([str(folder / "b.jpg"), str(folder / "b.png")])
    with pytest.raises(UsageError, match="name at least one image"):
        predict.named_images([])
