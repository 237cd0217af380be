"""Programs in processes of their own, forked from one that has imported TensorFlow, which takes as long as a short run.

In the parent, TensorFlow has not computed anything. Flags, environment, working directory, output, signals and exit
status are as from a shell; lines that TensorFlow writes itself are not filtered. `--backbone=tiny` is known.
"""

import logging
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
HANGS = 300
"""Seconds after which a process no longer takes long, but hangs."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["preloaded"])


def run(*arguments, expect=0, **options):
    """Runs a program to its end; returns what it wrote to `stdout` and `stderr`. Arguments: those of `start`."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(Path(folder), *arguments, **options)
        process.join(HANGS)
        written = {name: (Path(folder) / name).read_text() for name in ("stdout", "stderr")}
    assert process.exitcode == expect, written["stderr"][-3000:]
    return SimpleNamespace(**written)


def start(folder, *arguments, environment=None, stop_at=None):
    """Starts a program, whose output goes to `stdout` and `stderr` in the folder; returns its process.

    Args:
        folder: where its output goes.
        arguments: as for `python`: a program in the project's folder, or -m and a module, and its flags.
        environment: variables beside those of this process.
        stop_at: a text and a signal, which reaches the program as soon as it logs this text.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))  # for `preloaded`
    process = _FORKS.Process(target=_run, args=(folder, list(map(str, arguments)), environment or {}, stop_at))
    process.start()
    return process


def _run(folder, arguments, environment, stop_at):
    import tiny

    tiny.register()
    os.chdir(ROOT)
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), descriptor)
    if stop_at:
        logging.getLogger("deeplab").addHandler(_Stop(*stop_at))
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


class _Stop(logging.Handler):
    """Sends a signal to its own process when a text is logged."""

    def __init__(self, text, number):
        super().__init__()
        self.text = text
        self.number = number

    def emit(self, record):
        if self.text in record.getMessage():
            os.kill(os.getpid(), self.number)
