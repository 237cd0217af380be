"""What is recorded at each start of a run: size and cost, command line, versions, git commit, devices."""

import datetime
import importlib.metadata
import json
import logging
import math
import platform
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

import deeplab
from deeplab.errors import DataError
from deeplab.files import naming
from deeplab.json_fields import parse_json
from deeplab.model.cost import activation_bytes, forward_flop
from deeplab.text import read_text
from deeplab.training.plan import Plan
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")

_STARTS = "starts.jsonl"
_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "tensorboard")


def record_start(model_dir: Path, state: TrainState, plan: Plan, crop_size: int, accumulate_steps: int) -> None:
    """Logs the size and the cost of a run, and appends a line to `starts.jsonl` in its existing folder.

    A line is one JSON object per start, the newest last.
    """
    size = run_size(state, plan, crop_size, accumulate_steps)
    for line in describe(size).values():
        logger.info("%s", line)
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    record = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "first_step": int(state.step),
        "run": size,
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
    path = model_dir / _STARTS
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_description(model_dir: Path) -> dict[str, str]:
    """`describe` of a run's newest start; empty if the run did not record its size.

    Raises:
        DataError: the line is not a record of a start.
    """
    path = model_dir / _STARTS
    lines = read_text(path, "starts of a run").splitlines() if path.exists() else []
    try:
        size = parse_json(lines[-1]).get("run") if lines else None
        if size and not all(type(value) is int and value >= 0 for value in size.values()):
            raise ValueError(f"run: {size}")
        return describe(size) if size else {}
    except (ValueError, AttributeError, KeyError, ArithmeticError) as error:
        raise DataError(f"{path}: line {len(lines)} is not a record of a start ({error}); delete it") from error


def run_size(state: TrainState, plan: Plan, crop_size: int, accumulate_steps: int) -> dict[str, int]:
    """What is trained, on how much data, for how long and at what cost.

    Parameters and FLOP are those of the network without an auxiliary head. `step_bytes`: what a step needs on each
    replica: weights, the optimizer's variables, gradients before and after weight decay, and the activations of the
    images that are processed at the same time. docs/measurements.md compares it with what processes hold.
    """
    model = state.model
    training_model = state.training_model
    num_replicas = int(state.num_replicas)
    images_at_once = plan.global_batch_size // num_replicas // accumulate_steps
    variables = [*training_model.variables, *state.optimizer.variables, *2 * training_model.trainable_variables]
    return {
        "parameters": model.count_params(),
        "trainable_parameters": sum(math.prod(variable.shape) for variable in model.trainable_variables),
        "flop_per_image": forward_flop(model, crop_size),
        "crop_size": crop_size,
        "images": plan.num_examples,
        "classes": model.outputs[0].shape[-1],
        "steps": plan.total_steps,
        "global_batch_size": plan.global_batch_size,
        "replicas": num_replicas,
        "step_bytes": sum(math.prod(each.shape) * tf.as_dtype(each.dtype).size for each in variables)
        + images_at_once * activation_bytes(training_model, crop_size),
    }


def describe(size: dict[str, int]) -> dict[str, str]:
    """A `run_size` in words, by topic."""
    side = size["crop_size"]
    epochs = size["steps"] * size["global_batch_size"] / size["images"]
    replicas = "" if size["replicas"] == 1 else f" on each of {size['replicas']} replicas"
    return {
        "network": f"{size['parameters'] / 1e6:.1f} M parameters, {size['trainable_parameters'] / 1e6:.1f} M trained",
        "forward pass": f"{size['flop_per_image'] / 1e9:.2f} GFLOP per image of {side}x{side}",
        "training data": f"{size['images']:,} images per epoch, {size['classes']} classes",
        "length": f"{size['steps']:,} steps of {size['global_batch_size']} images ({epochs:.1f} epochs)",
        "expected memory": f"at least {size['step_bytes'] / 1e9:.2f} GB for a step{replicas}",
    }


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
