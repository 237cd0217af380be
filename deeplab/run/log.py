"""The output of a run while it trains: log lines, `metrics.jsonl`, TensorBoard events, newest and best scores."""

import json
import logging
import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import tensorflow as tf
from absl import flags

from deeplab.files import naming, write_text
from deeplab.progress import duration
from deeplab.run.tensorboard import Events
from deeplab.training.metrics import Evaluation, per_cent, scores
from deeplab.training.plan import Plan
from deeplab.training.totals import StepTotals


class Panel(Protocol):
    """Draws an evaluation's examples and confusion matrix: `view.panel.Panel`."""

    def pictures(self, confusion: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 RGB [height, width, 3] by TensorBoard tag."""


logger = logging.getLogger("deeplab")


class RunLog:
    """Appends to `metrics.jsonl`, to TensorBoard's events and to the log.

    Args:
        model_dir: the run's folder.
        class_names: names for per-class scores.
        flags_text: for TensorBoard's "Text" page.
        hyperparameters: flags by name, for TensorBoard's table of runs.
        panel: draws TensorBoard's pictures; as a viewer, it has seen the examples of each evaluation.
    """

    def __init__(
        self,
        model_dir: Path,
        class_names: tuple[str, ...],
        flags_text: str = "",
        hyperparameters: Mapping[str, flags.Flag] | None = None,
        panel: Panel | None = None,
    ) -> None:
        self.model_dir = model_dir
        self._class_names = class_names
        self._panel = panel
        self._path = model_dir / "metrics.jsonl"
        self._file = _open_lines(self._path)
        self._events = Events(model_dir, flags_text, hyperparameters or {})
        self._newest: dict[str, dict] = {}

    def write_training(
        self, step: int, plan: Plan, totals: StepTotals, *, seconds: float, learning_rate: float
    ) -> None:
        """Writes the means over the steps since the last call, which took `seconds`; nothing if all were skipped."""
        steps = float(totals.steps)
        updates = steps - float(totals.skipped)
        if updates < steps:
            logger.warning("%.0f of %.0f updates up to step %d skipped: float16 overflow", steps - updates, steps, step)
        if not updates:
            return

        # Means over the updates; the losses and norms of skipped ones are not in the totals.
        means = {name: float(total) / updates for name, total in totals.losses.items()}
        means["gradient_norm"] = float(totals.gradient_norm) / updates
        means["weight_norm"] = float(totals.weight_norm) / updates

        # Where the time went.
        step_seconds = seconds / steps
        waited = float(totals.data_wait_seconds) / updates
        if not math.isnan(waited):
            means["data_wait_seconds"] = waited
            means["compute_seconds"] = max(step_seconds - waited, 0.0)

        result = scores(totals.confusion.numpy(), self._class_names)
        record = {
            "epoch": round(step / plan.steps_per_epoch, 4),
            **means,
            "learning_rate": learning_rate,
            "images_per_second": plan.global_batch_size / step_seconds,
            "step_seconds": step_seconds,
            **peak_memory(),
            **result.to_json(self._class_names),
        }
        self.write(step, "train", record)
        logger.info(
            "step %d/%d  loss %.4f  mIoU %s  %.1f img/s  ETA %s",
            step,
            plan.total_steps,
            means["loss"],
            per_cent(result.mean_iou),
            record["images_per_second"],
            duration((plan.total_steps - step) * step_seconds),
        )

    def write_evaluation(self, step: int, split: str, evaluation: Evaluation) -> None:
        """Writes the record of an evaluation of a split."""
        self.write(step, split, evaluation.to_json(self._class_names))
        if self._panel:
            self._events.write_pictures(step, split, self._panel.pictures(evaluation.confusion))

    def write(self, step: int, split: str, record: dict) -> None:
        """Writes one JSON line, and a TensorBoard scalar for each field in `tensorboard.TAGS`."""
        self._newest[split] = {"step": step, "split": split, **record}
        with naming(self._path):
            self._file.write(json.dumps(self._newest[split]) + "\n")
            self._file.flush()
        self._events.write_record(step, split, record)

    def write_pictures(self, step: int, split: str, pictures: dict[str, np.ndarray]) -> None:
        """Pictures for TensorBoard (uint8 RGB [height, width, 3]), by tag."""
        self._events.write_pictures(step, split, pictures)

    def write_best(self, step: int, mean_iou: float | None) -> None:
        """Also keeps the newest records as the best ones: `metrics_best.json`."""
        self._write_newest("metrics_best.json")
        if mean_iou is not None:
            self._events.write_best(step, mean_iou)

    def write_last(self) -> None:
        """Writes `metrics_last.json`: the newest record of each split, split -> record."""
        self._write_newest("metrics_last.json")

    def write_file(self, name: str, record: dict) -> Path:
        """Writes a separate JSON file in the run's folder; returns its path."""
        path = self.model_dir / name
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    def _write_newest(self, name: str) -> None:
        self.write_file(name, self._newest)


def _open_lines(path: Path) -> TextIO:
    """Opens a file of lines for appending; removes an incomplete last line, left by a killed process."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def peak_memory() -> dict[str, int]:
    """Peak memory of this process so far: `host_memory_bytes`, and `gpu_memory_bytes` of the fullest GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    gpus = [device.name.partition("device:")[2] for device in tf.config.list_logical_devices("GPU")]
    if gpus:
        peaks["gpu_memory_bytes"] = max(tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus)
    return peaks
