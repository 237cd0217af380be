"""Shared by the scripts here: variants that take turns, a table and a JSON line of ratios, images of VOC's size."""

import deeplab  # noqa: F401  before TensorFlow, whose kernels it chooses

# isort: split
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import prepare
from deeplab.data.source import shapes, voc
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState

WIDTH = 500
HEIGHT = 375


def take_turns(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The measurements of each variant by round, after a warm-up; taking turns exposes all to the same other load."""
    for variant in variants.values():
        variant()
    gc.collect()
    gc.freeze()  # otherwise Python scans all graphs ever traced, for seconds, during an arbitrary variant
    measured: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            measured[name].append(variant())
    return measured


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def pytorch(script: str, *arguments: str) -> Callable[[], float] | None:
    """A function that makes a script in this folder, in its own process, measure once; None if torch is missing.

    The script runs in the Python named by the environment variable TORCH_PYTHON, else in this one.
    """
    measure = in_process([os.environ.get("TORCH_PYTHON", sys.executable), script, *arguments])
    if measure is None:
        print(f"{script} does not run and is left out (is torch installed, or TORCH_PYTHON set?)")
    return measure


_started: list[subprocess.Popen[str]] = []


def in_process(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Callable[[], float] | None:
    """A function that makes a process measure once; None if it ends before it is ready.

    The command is a Python, the name of a script in this folder, and its arguments. The script prints "ready", then a
    figure for each line of its standard input.
    """
    python, script, *arguments = command
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name(script)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environment),
    )
    _started.append(process)
    assert process.stdin and process.stdout
    if process.stdout.readline() != "ready\n":
        return None
    stdin = process.stdin
    stdout = process.stdout

    def measure() -> float:
        stdin.write("\n")
        stdin.flush()
        return float(stdout.readline())

    return measure


def end_processes() -> None:
    """Ends what `in_process` started, whose memory the next row of a table may need."""
    for process in _started:
        process.kill()
        process.wait()
    _started.clear()


def sgd_state(model: keras.Model, loss_scaling: bool = False) -> TrainState:
    """The state for a step of SGD with momentum; call it in the strategy's scope."""
    schedule = Schedule(ScheduleSettings("constant"), 0.001, 1, tf.Variable(1.0, trainable=False))
    optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, loss_scaling)
    return TrainState(model, model, optimizer, schedule)


def peak_megabytes() -> float:
    """Peak memory of this process; `ru_maxrss` would start with its parent's peak. Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def report(bench: str, header: Sequence[str], rows: Sequence[Sequence[object]], figures: Mapping[str, object]) -> None:
    """Prints a Markdown table, as in docs/measurements.md, and a JSON line of the figures."""
    print("| " + " | ".join(header) + " |")
    print("| " + " | ".join("---" for _ in header) + " |")
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"bench": bench, **rounded}), flush=True)


def images_of_vocs_size(folder: Path, number: int) -> list[voc.Pair]:
    """Pairs from the folder in the environment variable VOC_DIR, repeated as needed; without it, drawn shapes."""
    voc_dir = Path(os.environ["VOC_DIR"]) if "VOC_DIR" in os.environ else _draw_shapes(folder / "shapes")
    masks = sorted((voc_dir / "SegmentationClass").glob("*.png"))
    return [
        voc.Pair(f"{index:05d}", str(voc_dir / "JPEGImages" / f"{mask.stem}.jpg"), str(mask))
        for index, mask in zip(range(number), masks * number, strict=False)
    ]


def write_voc(folder: Path, pairs: Sequence[voc.Pair]) -> Path:
    """Writes a folder in VOC's layout with links to these files, all in the split `train`."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for pair in pairs:
        (folder / "JPEGImages" / f"{pair.name}.jpg").symlink_to(pair.image.resolve())
        (folder / "SegmentationClass" / f"{pair.name}.png").symlink_to(pair.mask.resolve())
    names = "\n".join(pair.name for pair in pairs) + "\n"
    (folder / "ImageSets/Segmentation/train.txt").write_text(names, encoding="utf-8")
    return folder


def write_shards(folder: Path, pairs: Sequence[voc.Pair]) -> Split:
    """Writes the shards of these pairs, split `train`, to `folder`."""
    settings = ShardSettings(voc_dir=write_voc(folder / "voc", pairs))
    return prepare(settings, folder, "train", voc.CLASS_NAMES)


def _draw_shapes(voc_dir: Path) -> Path:
    """Draws eight images of the demo's shapes, enlarged to VOC's usual size."""
    (voc_dir / "JPEGImages").mkdir(parents=True)
    (voc_dir / "SegmentationClass").mkdir()
    for index in range(8):
        image, mask = shapes.draw_example(np.random.default_rng(index))
        image.resize((WIDTH, HEIGHT)).save(voc_dir / "JPEGImages" / f"{index}.jpg", quality=92)
        mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(voc_dir / "SegmentationClass" / f"{index}.png")
    return voc_dir
