"""Nothing of a user's is lost or followed: scratch folders, locks and downloads."""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from deeplab.data.source import shapes
from deeplab.data.source.download import DownloadSettings, download_voc
from deeplab.errors import DataError, UsageError
from deeplab.files import (
    atomic_folder,
    atomic_write,
    delete_unfinished,
    locked,
    locked_beside,
    temporary_folder,
    write_text,
)


def test_a_users_own_folder_with_the_old_scratch_name_is_left_alone(tmp_path):
    (tmp_path / "set.part").mkdir()
    (tmp_path / "set.part" / "mine.txt").write_text("kept")
    (tmp_path / ".set.notes.part").mkdir()
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "set.part" / "mine.txt").read_text() == "kept"
    assert (tmp_path / ".set.notes.part").is_dir()
    assert (tmp_path / "set" / "a").read_text() == "new"


def test_leftovers_of_killed_processes_are_deleted_and_nothing_else_is_left(tmp_path):
    leftover = tmp_path / ".set.0123456789abcdef.part"
    leftover.mkdir()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("new")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_at_once_can_delete_what_it_has_not_finished(tmp_path):
    (tmp_path / ".mine.part").write_text("kept")
    with (
        pytest.raises(ZeroDivisionError),
        atomic_folder(tmp_path / "set") as folder,
        atomic_write(tmp_path / "file") as file,
        temporary_folder("shards-", tmp_path) as shards,
    ):
        for path in (folder / "a", file, shards / "b"):
            path.write_text("half")
        assert len(list(tmp_path.iterdir())) == 5  # with the lock
        delete_unfinished()
        assert [path.name for path in tmp_path.iterdir()] == [".mine.part"]
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [".mine.part"]


def test_of_two_that_write_one_folder_the_second_is_refused_by_name(tmp_path):
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("first")
        with (
            pytest.raises(UsageError, match=rf"set: in use by process {os.getpid()} on "),
            atomic_folder(tmp_path / "set"),
        ):
            pass
    assert (tmp_path / "set" / "a").read_text() == "first"
    with pytest.raises(UsageError, match="set: exists already"), atomic_folder(tmp_path / "set"):
        pass


def test_a_lock_beside_a_file_is_held_by_one_at_a_time_and_goes_with_the_last(tmp_path):
    inside = []
    most = []

    def work():
        with locked_beside(tmp_path / "set", waits=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match=r"run/\.lock: a symbolic link"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_lock_file_of_another_user_is_locked_or_says_whose_it_is():
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from deeplab.errors import UsageError\nfrom deeplab.files import locked\n"
        "os.setuid(65534)\n"
        "try:\n    with locked(Path(sys.argv[1])): print('locked')\n"
        "except UsageError as error: print(error)\n"
    )

    def tried(folder):
        command = [sys.executable, "-c", program, folder]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with tempfile.TemporaryDirectory() as folder:  # others cannot enter pytest's own
        Path(folder).chmod(0o777)
        with locked(Path(folder)):
            pass
        Path(folder, ".lock").chmod(0o644)
        assert tried(folder) == "locked"
        Path(folder, ".lock").chmod(0o600)
        assert tried(folder) == f"{folder}/.lock: cannot be locked, it belongs to root"


def test_a_scratch_file_is_never_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / f".a.txt.{os.getpid()}.part").symlink_to(tmp_path / "precious")  # the name that it used to have
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_an_archive_that_is_there_is_checked_before_it_is_unpacked(tmp_path):
    (tmp_path / "voc.tar").write_bytes(b"of somebody else")
    with pytest.raises(DataError, match=r"voc\.tar: MD5 is .*, not .*; delete it and run the same command again"):
        download_voc(tmp_path / "VOC2012", "http://127.0.0.1:9/voc.tar", hashlib.md5(b"VOC").hexdigest())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["voc.tar"]


def test_a_password_in_the_address_is_refused_without_being_shown():
    with pytest.raises(UsageError, match=r"^--voc_url: an address with a user name") as caught:
        DownloadSettings(voc_url="https://me:hunter2@mirror.example/voc.tar")
    assert "hunter2" not in str(caught.value)


def test_two_that_draw_the_shapes_leave_one_whole_set(tmp_path):
    outcomes = []

    def draw():
        try:
            shapes.write_shapes(tmp_path / "set", num_train=6, num_val=2)
            outcomes.append("written")
        except UsageError as error:
            outcomes.append("in use" if "in use" in str(error) else str(error))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "written" in outcomes
    assert len(list((tmp_path / "set" / "JPEGImages").iterdir())) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
