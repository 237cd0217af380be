"""Files are written completely or not at all; progress suits terminals and files."""

import errno
import fcntl
import io
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from deeplab.errors import UsageError
from deeplab.files import atomic_folder, atomic_write, digest, is_plain_name, is_relative_name, locked, naming
from deeplab.progress import Progress, duration, shown
from deeplab.run.log import RunLog

ROOT = Path(__file__).resolve().parents[1]


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from deeplab.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('new, half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], cwd=ROOT).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(tmp_path, write):
    with pytest.raises(OSError, match=r"No space left on device: '.*/wanted'"), write(tmp_path / "wanted") as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_does_not_fit_on_the_disk_names_its_file(tmp_path):
    path = tmp_path / "starts.jsonl"
    path.symlink_to("/dev/full")
    words = r"No space left on device: '.*/starts\.jsonl'"
    with pytest.raises(OSError, match=words), naming(path), path.open("a") as file:
        file.write("line")
    log = RunLog.__new__(RunLog)
    log._newest = {}
    log._path = path
    log._file = path.open("a")
    with pytest.raises(OSError, match=words):
        log.write(1, "train", {"loss": 0.5})


def test_errors_that_name_a_file_keep_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*/other'"), atomic_write(tmp_path / "wanted"):
        (tmp_path / "other").read_text()


HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from deeplab.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_holds_a_folder_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match=rf"run: in use by process {holder.pid} on .*; stop it"), locked(folder):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(folder):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a\nb", "a\0b", "a\x1b[2J"])
def test_names_that_are_not_plain(name):
    assert not is_plain_name(name)
    assert is_plain_name("2007_000032 (été).jpg")
    assert is_relative_name(name) == (name == "a/b")
    assert not is_relative_name(f"a/{name}/b") or name == "a/b"


def test_digest_of_a_published_example(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (187, "3m07s"), (3599.7, "1h00m"), (18120, "5h02m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The seconds that progress sees, in a list; no thread looks at them."""
    seconds = [100.0]
    monkeypatch.setattr("deeplab.progress.time.monotonic", lambda: seconds[0])
    monkeypatch.setattr("deeplab.progress.threading.Thread", lambda **settings: SimpleNamespace(start=lambda: None))
    return seconds


def test_progress_redraws_on_a_terminal_and_writes_lines_elsewhere(clock):
    """Rate and ETA count from the end of the first unit, which may take longer."""
    terminal, file = _Terminal(), io.StringIO()
    bars = [Progress("reading", 40, "images", stream=stream) for stream in (terminal, file)]
    for second, done in ((9, 1), (10, 3), (11, 5), (28, 39), (28.5, 40)):
        clock[0] = 100.0 + second
        for bar in bars:
            bar.update(done)
    for bar in bars:
        bar.close()
    assert "\rreading: 1/40 images (9s)\rreading: 3/40 images (2.0/s, ETA 18s)" in terminal.getvalue()
    assert terminal.getvalue().endswith("\rreading: 40 images in 28s\n")
    assert file.getvalue() == "reading: 39/40 images (2.0/s, ETA 0s)\nreading: 40 images in 28s\n"


def test_a_line_fits_into_the_terminal(clock):
    """A wrapped line cannot be redrawn; where the width is not known, as in some editors, the line is whole."""
    ours, theirs = pty.openpty()
    whole = "training: 1/9 steps (9s) the step is traced"
    for columns, expected in ((30, whole[:29]), (80, whole), (0, whole)):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(theirs, "w", closefd=False) as terminal:
            progress = Progress("training", 9, "steps", initial=1, first="the step is traced", stream=terminal)
            clock[0] += 9
            progress.show_if_silent()
            assert os.read(ours, 1000).decode() == f"\r{expected}"
            progress.end()
            assert os.read(ours, 1000).decode() == f"\r{' ' * len(expected)}\r"
    os.close(ours)
    os.close(theirs)


def test_slow_units_give_a_sign_of_life(clock):
    """A training step of 22 s, as on a laptop, whose log lines are 20 steps apart."""
    file = io.StringIO()
    progress = Progress("training", 280, "steps", every_seconds=math.inf, first="the step is traced", stream=file)
    for second in range(1, 200):
        clock[0] = 100.0 + second
        if second % 22 == 0:
            progress.update(second // 22)
        progress.show_if_silent()
    lines = file.getvalue().splitlines()
    assert lines[:3] == [
        "training: 0/280 steps (10s) the step is traced",
        "training: 1/280 steps (40s)",
        "training: 3/280 steps (22.0 s each, ETA 1h41m)",
    ]
    assert len(lines) == 1 + 190 // 30
    progress.end()
    clock[0] += 1000
    progress.show_if_silent()
    assert file.getvalue().splitlines() == lines


def test_other_lines_are_signs_of_life_too(clock):
    file = io.StringIO()
    progress = Progress("training", 280, "steps", every_seconds=math.inf, stream=file)
    for _ in range(100):
        clock[0] += 9.0
        progress.clear()  # before a log line
        progress.show_if_silent()
    assert not file.getvalue()


def test_a_thread_shows_work_that_never_reports(monkeypatch, capsys):
    monkeypatch.setattr("deeplab.progress.FIRST_SIGN", 0.5)
    threads = threading.active_count()
    with shown("writing model.onnx"):
        time.sleep(1.6)
    assert re.fullmatch(r"writing model.onnx: [12]s so far\n", capsys.readouterr().err)
    end = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.1)
    assert threading.active_count() <= threads
