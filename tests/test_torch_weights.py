"""Files of PyTorch are read without it: tensors by name, nothing is executed, and others are refused."""

import os
import pickle
import re
import shlex
import sys
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN

from deeplab.errors import DataError
from deeplab.model.backbone import family_of_weights
from deeplab.model.published.files import read_tensors
from deeplab.model.published.torch_file import read_torch


def test_a_file_of_pytorch_is_read_without_it():
    """Written by torch.save: a transposed view, a parameter, halves, an integer, an empty tensor; wrapped."""
    tensors = read_torch(GOLDEN / "weights.pth")
    assert "torch" not in sys.modules
    np.testing.assert_array_equal(tensors["weight"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tensors["bias"], [1, 2, 3])
    for name in ("half", "brain"):
        np.testing.assert_array_equal(tensors[name].astype(np.float32), [0.5, -2])
    assert tensors["count"].shape == () and tensors["count"] == 7
    assert tensors["none"].shape == (0, 4)


class _Touches:
    """A pickle of it creates a file, by a harmless call of another kind than those that rebuild tensors."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    pickled = pickle.dumps({"weight": _Touches(tmp_path / "ran")}, protocol=2)
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(DataError, match=r"it names (posix|nt)\.mkdir, which is not a tensor"):
        read_tensors(tmp_path / "file.pth")
    (tmp_path / "plain.pth").write_bytes(pickled)
    with pytest.raises(DataError, match="not a file of tensors"):
        read_tensors(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("name", "reason"),
    [("weights_legacy.pth", "File is not a zip file"), ("module.pth", r"it names torch\.nn\.modules\.linear\.Linear")],
)
def test_other_files_of_pytorch_are_refused_with_the_command_that_converts_them(name, reason):
    with pytest.raises(DataError, match=rf"{reason}.*python -c .*torch\.load.* {re.escape(str(GOLDEN / name))} NEW"):
        read_tensors(GOLDEN / name)


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((2, 3), (3, 1), 1), ((7,), (1,), 0), ((2, 3), (-3, 1), 5), ((2,), (1, 1), 0)]
)
def test_a_tensor_stays_in_its_storage(monkeypatch, size, stride, offset):
    from deeplab.model.published import torch_file

    values = np.arange(6.0)
    storage = torch_file._Storage(values)
    with pytest.raises(pickle.UnpicklingError, match="a tensor "):
        torch_file._tensor(storage, offset, size, stride)
    np.testing.assert_array_equal(torch_file._tensor(storage, 0, (2, 3), (3, 1)), values.reshape(2, 3))


@pytest.mark.parametrize("size", [(True,), (2.0,), np.array([2**62, 4]), (np.int64(2),)])
def test_sizes_of_tensors_are_plain_numbers(size):
    """Numbers of NumPy would overflow unseen: 2**62 * 4 elements are 0."""
    from deeplab.model.published import torch_file

    with pytest.raises(pickle.UnpicklingError, match="size, stride or offset is no number"):
        torch_file._tensor(torch_file._Storage(np.arange(6.0)), 0, size, (0,) * len(size))


def _write_pickle(path, pickled, storage=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x08tQ"  # of 8 numbers
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _view(storage, size, stride):
    """What rebuilds a vector at the start of a storage, in the language of pickles."""
    return REBUILD + b"(" + storage + b"K\x00(K" + bytes([size]) + b"t(K" + bytes([stride]) + b"ttR"


@pytest.mark.parametrize(
    "storage",
    [
        _view(STORAGE, 4, 2),  # every other number: in steps of its own, its last one is element 6
        STORAGE + b"}U\x06values" + _view(STORAGE, 4, 2) + b"sb",  # set as an attribute
        b"N",
    ],
)
def test_a_tensor_is_of_a_storage_of_the_archive(tmp_path, storage):
    numbers = np.arange(8, dtype="<f4")
    _write_pickle(tmp_path / "file.pth", b"}U\x01x" + _view(STORAGE, 4, 2) + b"s.", numbers.tobytes())
    np.testing.assert_array_equal(read_torch(tmp_path / "file.pth")["x"], numbers[::2])
    _write_pickle(tmp_path / "file.pth", b"}U\x01x" + _view(storage, 2, 1) + b"s.", numbers.tobytes())
    with pytest.raises(DataError, match="not a file of tensors"):
        read_torch(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "pickled",
    [
        b"}q\x00U\x05modelh\x00s.",  # a dictionary in itself
        b"}K\x00" + _view(STORAGE, 2, 1) + b"s.",  # a number for a name
    ],
)
def test_tensors_without_names_are_refused(tmp_path, pickled):
    _write_pickle(tmp_path / "file.pth", pickled, bytes(32))
    with pytest.raises(DataError, match=r"file\.pth: no tensors by name in it$"):
        read_torch(tmp_path / "file.pth")


def test_the_command_that_converts_a_file_is_quoted_for_a_shell(tmp_path):
    (tmp_path / "it's $(mine).pth").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        read_torch(tmp_path / "it's $(mine).pth")
    command = shlex.split(str(error.value).partition("installed: ")[2])
    assert (command[:2], command[3:]) == (["python", "-c"], [f"{tmp_path}/it's $(mine).pth", "NEW.pth"])


def test_a_pickle_does_not_make_a_large_memo(tmp_path):
    _write_pickle(tmp_path / "file.pth", b"}r\xff\xff\xff\x0f.")
    with pytest.raises(DataError, match="a memo of 268435455 entries"):
        read_torch(tmp_path / "file.pth")


def test_a_damaged_directory_of_an_archive_ends_in_one_line(tmp_path):
    _write_pickle(tmp_path / "file.pth", b"}.")
    content = (tmp_path / "file.pth").read_bytes()
    (tmp_path / "file.pth").write_bytes(content.replace(b"PK\1\2", b"PK\0\0"))
    assert family_of_weights(str(tmp_path / "file.pth")) == "torchvision"
    with pytest.raises(DataError, match=r"file\.pth: not a file of tensors .*Bad magic number for central"):
        read_tensors(tmp_path / "file.pth")
