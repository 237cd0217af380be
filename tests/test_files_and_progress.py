"""Files are written completely or not at all; progress suits terminals and files."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deeplab.errors import UsageError
from deeplab.files import digest, is_plain_name, is_relative_name, locked
from deeplab.progress import Progress, duration

ROOT = Path(__file__).resolve().parents[1]


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from deeplab.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('new, half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], cwd=ROOT).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


HOLDER = """
import sys, time
from pathlib import Path
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


def test_progress_redraws_on_a_terminal_and_writes_lines_elsewhere(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("deeplab.progress.time.monotonic", lambda: clock[0])
    terminal, file = _Terminal(), io.StringIO()
    bars = [Progress("reading", 40, "images", stream=stream) for stream in (terminal, file)]
    for second in (1, 2, 20):
        clock[0] = 100.0 + second
        for bar in bars:
            bar.update(2 * second)
    for bar in bars:
        bar.close()
    assert "\rreading: 2/40 images (2.0/s, ETA 19s)\rreading: 4/40 images (2.0/s, ETA 18s)" in terminal.getvalue()
    assert terminal.getvalue().endswith("\rreading: 40 images in 20s\n")
    assert file.getvalue() == "reading: 40/40 images (2.0/s, ETA 0s)\nreading: 40 images in 20s\n"
