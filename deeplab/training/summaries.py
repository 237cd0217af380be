"""What a run leaves to be read: `metrics.jsonl`, TensorBoard events, the newest and the best scores."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import TextIO

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api, api_pb2
from tensorboard.plugins.hparams import summary as hparams

from deeplab.files import write_text

TAGS = {
    "mean_iou": "accuracy/mean_iou",
    "mean_accuracy": "accuracy/mean_accuracy",
    "pixel_accuracy": "accuracy/pixel_accuracy",
    "per_class_iou": "per_class_iou",
    "loss": "loss/total",
    "cross_entropy": "loss/cross_entropy",
    "dice": "loss/dice",
    "auxiliary": "loss/auxiliary",
    "learning_rate": "optimization/learning_rate",
    "gradient_norm": "optimization/gradient_norm",
    "weight_norm": "optimization/weight_norm",
    "images_per_second": "speed/images_per_second",
    "step_seconds": "speed/step_seconds",
    "data_wait_seconds": "speed/data_wait_seconds",
    "compute_seconds": "speed/compute_seconds",
    "host_memory_bytes": "memory/host_bytes",
    "gpu_memory_bytes": "memory/gpu_bytes",
}
"""Fields of `metrics.jsonl` that TensorBoard shows, and their names there; the same for every split.

TensorBoard sorts groups by name, and begins with the accuracies.
"""

BEST_MEAN_IOU = "accuracy/best_mean_iou"

_CHARTS = {
    "Overview": {
        "mean IoU": "accuracy/mean_iou",
        "loss": "loss/total",
        "learning rate": "optimization/learning_rate",
        "images per second": "speed/images_per_second",
    },
    "Loss and optimization": {
        "cross-entropy": "loss/cross_entropy",
        "Dice": "loss/dice",
        "gradient norm": "optimization/gradient_norm",
        "weight norm": "optimization/weight_norm",
    },
    "Classes": {"IoU by class": "per_class_iou/.*"},
    "Speed and memory": {
        "seconds of a step": "speed/(step|data_wait|compute)_seconds",
        "bytes of memory": "memory/.*",
    },
}
"""The page "Custom Scalars": categories, and the regular expression of the tags in each chart."""

_FINAL_METRICS = (
    api.Metric(BEST_MEAN_IOU, display_name="best val mIoU"),
    api.Metric(TAGS["mean_iou"], "val", "val mIoU"),
    api.Metric(TAGS["pixel_accuracy"], "val", "val pixel accuracy"),
    api.Metric(TAGS["loss"], "val", "val loss"),
    api.Metric(TAGS["loss"], "train", "train loss"),
    api.Metric(TAGS["images_per_second"], "train", "images/s"),
)
"""Columns of the page "HParams", beside the hyperparameters: the last value of each."""

_SHOWN_FIRST = ("backbone", "global_batch_size", "learning_rate", "optimizer", "others")
"""TensorBoard ticks five hyperparameters at first."""


class RunLog:
    """Appends to `metrics.jsonl`, and to TensorBoard events in a run's folder and in one folder per split below it.

    The run's own events are the flags as text, the hyperparameters as a row of the table of runs, the layout of the
    charts, and the best mean IoU.
    """

    def __init__(self, model_dir: Path, flags_text: str = "", hyperparameters: dict[str, object] | None = None) -> None:
        self._model_dir = model_dir
        self._file = _open_lines(model_dir / "metrics.jsonl")
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._newest: dict[str, dict] = {}
        self._write_start(flags_text, hyperparameters or {})

    def _write_start(self, flags_text: str, hyperparameters: dict[str, object]) -> None:
        columns = [_column(name, value) for name, value in hyperparameters.items()]
        # Else runs with the same values would be shown as one.
        row = api.hparams_pb(hyperparameters, trial_id=str(self._model_dir))
        table = hparams.experiment_pb(columns, [metric.as_proto() for metric in _FINAL_METRICS])
        with self._writer("").as_default(0):
            tf.summary.text("flags", f"```\n{flags_text}```")
            for summary in (table, row, custom_scalar.pb(_layout())):
                tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        self._writer("").flush()

    def write_file(self, name: str, record: dict) -> Path:
        """A JSON file of its own in the run's folder; returns its path."""
        path = self._model_dir / name
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    def write(self, step: int, split: str, record: dict) -> None:
        """One JSON line, and a scalar for each field that `TAGS` names; a dict's numbers as `tag/key`."""
        self._newest[split] = {"step": step, "split": split, **record}
        self._file.write(json.dumps(self._newest[split]) + "\n")
        self._file.flush()
        with self._writer(split).as_default(step):
            for name, tag in TAGS.items():
                value = record.get(name)
                for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if number is not None:
                        tf.summary.scalar(f"{tag}/{key}" if key else tag, number)
        self._writer(split).flush()

    def write_pictures(self, step: int, split: str, pictures: dict[str, np.ndarray]) -> None:
        """Pictures (uint8 RGB [height, width, 3]) by their tags."""
        with self._writer(split).as_default(step):
            for tag, picture in pictures.items():
                tf.summary.image(tag, picture[np.newaxis])
        self._writer(split).flush()

    def write_best(self, step: int, mean_iou: float | None) -> None:
        """Keeps the newest records as the best ones, too: `metrics_best.json`."""
        self._write_newest("metrics_best.json")
        if mean_iou is not None:
            with self._writer("").as_default(step):
                tf.summary.scalar(BEST_MEAN_IOU, mean_iou)
            self._writer("").flush()

    def write_last(self) -> None:
        """`metrics_last.json`: the newest record of each split, split -> record."""
        self._write_newest("metrics_last.json")

    def _write_newest(self, name: str) -> None:
        write_text(self._model_dir / name, json.dumps(self._newest, indent=1) + "\n")

    def _writer(self, folder: str) -> tf.summary.SummaryWriter:
        if folder not in self._writers:
            self._writers[folder] = tf.summary.create_file_writer(str(self._model_dir / folder))
        return self._writers[folder]


def _open_lines(path: Path) -> TextIO:
    """Opens a file of lines to append to; the half line that a killed process left goes."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def peak_memory() -> dict[str, int]:
    """The most that this process had so far: `host_memory_bytes`, and `gpu_memory_bytes` of the fullest GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    gpus = [device.name.partition("device:")[2] for device in tf.config.list_logical_devices("GPU")]
    if gpus:
        peaks["gpu_memory_bytes"] = max(tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus)
    return peaks


def _layout() -> layout_pb2.Layout:
    categories = []
    for title, charts in _CHARTS.items():
        content = [
            layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"^{pattern}$"]))
            for name, pattern in charts.items()
        ]
        categories.append(layout_pb2.Category(title=title, chart=content))
    return layout_pb2.Layout(category=categories)


def _column(name: str, value: object) -> api_pb2.HParamInfo:
    kind = "BOOL" if isinstance(value, bool) else "FLOAT64" if isinstance(value, int | float) else "STRING"
    # TensorBoard sorts by `differs`, and computes it where nobody says what the metrics are.
    return api_pb2.HParamInfo(name=name, type=f"DATA_TYPE_{kind}", differs=name in _SHOWN_FIRST)
