"""A run in TensorBoard: events, the layout of its pages, the table of runs, profiler traces."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api, api_pb2
from tensorboard.plugins.hparams import summary as hparams

logger = logging.getLogger("deeplab")

TAGS = {
    "mean_iou": "accuracy/mean_iou",
    "mean_accuracy": "accuracy/mean_accuracy",
    "pixel_accuracy": "accuracy/pixel_accuracy",
    "foreground_mean_iou": "accuracy/foreground_mean_iou",
    "frequency_weighted_iou": "accuracy/frequency_weighted_iou",
    "expected_calibration_error": "accuracy/expected_calibration_error",
    "per_class_iou": "per_class_iou",
    "per_class_precision": "per_class_precision",
    "per_class_recall": "per_class_recall",
    "per_class_f1": "per_class_f1",
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

TensorBoard sorts groups by name, so the accuracies come first.
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
    "Classes": {
        "IoU by class": "per_class_iou/.*",
        "precision by class": "per_class_precision/.*",
        "recall by class": "per_class_recall/.*",
        "F1 by class": "per_class_f1/.*",
    },
    "Speed and memory": {
        "seconds of a step": "speed/(step|data_wait|compute)_seconds",
        "bytes of memory": "memory/.*",
    },
}
"""The "Custom Scalars" page: categories, and the regular expression of the tags in each chart."""

_FINAL_METRICS = (
    api.Metric(BEST_MEAN_IOU, display_name="best val mIoU"),
    api.Metric(TAGS["mean_iou"], "val", "val mIoU"),
    api.Metric(TAGS["pixel_accuracy"], "val", "val pixel accuracy"),
    api.Metric(TAGS["loss"], "val", "val loss"),
    api.Metric(TAGS["loss"], "train", "train loss"),
    api.Metric(TAGS["images_per_second"], "train", "images/s"),
)
"""Columns of the "HParams" page in addition to the hyperparameters: the last value of each."""

_HYPERPARAMETERS = (
    "precision",
    "seed",
    "backbone",
    "output_stride",
    "separable_aspp",
    "decoder",
    "separable_decoder",
    "backbone_weights",
    "freeze_batch_norm",
    "crop_size",
    "loss",
    "class_weights",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "schedule",
    "global_batch_size",
    "train_steps",
    "epochs",
)
"""Flags with a column of their own in the "HParams" page; `others` has all that are not at their defaults."""

_SHOWN_FIRST = ("backbone", "global_batch_size", "learning_rate", "optimizer", "others")
"""TensorBoard initially selects five hyperparameters."""


class Events:
    """Writes TensorBoard events in a run's folder and in one folder per split below it.

    The run's own events are the flags as text, the hyperparameters as a row in the table of runs, the layout of the
    charts, and the best mean IoU.
    """

    def __init__(self, model_dir: Path, flags_text: str, hyperparameters: Mapping[str, flags.Flag]) -> None:
        self._model_dir = model_dir
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        values = _table_row(hyperparameters)
        columns = [_column(name, value) for name, value in values.items()]
        # Without a trial ID, runs with the same values would be shown as one.
        row = api.hparams_pb(values, trial_id=str(model_dir))
        table = hparams.experiment_pb(columns, [metric.as_proto() for metric in _FINAL_METRICS])
        with self._writer("").as_default(0):
            tf.summary.text("flags", f"```\n{flags_text}```")
            for summary in (table, row, custom_scalar.pb(_layout())):
                tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        self._writer("").flush()

    def write_record(self, step: int, split: str, record: dict) -> None:
        """Writes a scalar for each field in `TAGS`; the numbers in a dict become `tag/key`."""
        with self._writer(split).as_default(step):
            for name, tag in TAGS.items():
                value = record.get(name)
                for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if number is not None:
                        tf.summary.scalar(f"{tag}/{key}" if key else tag, number)
        self._writer(split).flush()

    def write_pictures(self, step: int, split: str, pictures: dict[str, np.ndarray]) -> None:
        """Writes pictures (uint8 RGB [height, width, 3]) under their tags."""
        with self._writer(split).as_default(step):
            for tag, picture in pictures.items():
                tf.summary.image(tag, picture[np.newaxis])
        self._writer(split).flush()

    def write_best(self, step: int, mean_iou: float) -> None:
        """Writes the best mean IoU so far (0 to 1) as the run's own event."""
        with self._writer("").as_default(step):
            tf.summary.scalar(BEST_MEAN_IOU, mean_iou)
        self._writer("").flush()

    def _writer(self, folder: str) -> tf.summary.SummaryWriter:
        if folder not in self._writers:
            self._writers[folder] = tf.summary.create_file_writer(str(self._model_dir / folder))
        return self._writers[folder]


class Profiler:
    """Traces the steps `first` to `last` with TensorFlow's profiler, for TensorBoard's "Profile" page."""

    def __init__(self, model_dir: Path, first: int, last: int) -> None:
        self._model_dir = model_dir
        self._first = first
        self._last = last
        self._is_tracing = False

    def after(self, step: int) -> None:
        """Starts or ends the trace at its first or last step; call it after step `step`, when the devices are idle."""
        if self._is_tracing and step >= self._last:
            tf.profiler.experimental.stop()
            self._is_tracing = False
            logger.info("profiler: trace up to step %d in %s", step, self._model_dir / "plugins" / "profile")
        elif not self._is_tracing and self._first - 1 <= step < self._last:
            tf.profiler.experimental.start(str(self._model_dir))
            self._is_tracing = True

    def close(self) -> None:
        """Ends a trace that the end of training cut short."""
        if self._is_tracing:
            self.after(self._last)


def _layout() -> layout_pb2.Layout:
    categories = []
    for title, charts in _CHARTS.items():
        content = [
            layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"^{pattern}$"]))
            for name, pattern in charts.items()
        ]
        categories.append(layout_pb2.Category(title=title, chart=content))
    return layout_pb2.Layout(category=categories)


def _table_row(hyperparameters: Mapping[str, flags.Flag]) -> dict[str, object]:
    """The run's values in the table of runs, by column."""
    row = {name: hyperparameters[name].value for name in _HYPERPARAMETERS if name in hyperparameters}
    others = [flag for name, flag in hyperparameters.items() if name not in _HYPERPARAMETERS]
    return row | {"others": " ".join(flag.serialize() for flag in others if flag.value != flag.default)}


def _column(name: str, value: object) -> api_pb2.HParamInfo:
    kind = "BOOL" if isinstance(value, bool) else "FLOAT64" if isinstance(value, int | float) else "STRING"
    # TensorBoard sorts by `differs`; it computes this itself only if the experiment does not name its metrics.
    return api_pb2.HParamInfo(name=name, type=f"DATA_TYPE_{kind}", differs=name in _SHOWN_FIRST)
