"""How a run was started: command line, versions, git commit, devices."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

import deeplab

_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "tensorboard")


def record_start(model_dir: Path, first_step: int) -> None:
    """Appends a line to `starts.jsonl` in a run's existing folder: one JSON object per start, the newest last."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    record = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "first_step": first_step,
        "command": sys.argv,
        "git_commit": git_commit(Path(__file__)),
        "versions": {
            "python": platform.python_version(),
            "deeplab": deeplab.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "host": platform.node(),
        "gpus": [details.get("device_name", "unknown") for details in gpus],
    }
    with (model_dir / "starts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def git_commit(path: Path) -> str | None:
    """The commit of the repository that tracks this file, with "+changes" if its files differ; None outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=path.parent, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", path.name)  # a virtual environment may be inside another repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
