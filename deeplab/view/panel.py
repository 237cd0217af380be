"""What is to be looked at while a run trains: a fixed panel of validation pictures, the confusion matrix, traces."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab import visualize
from deeplab.training.evaluation import Evaluation
from deeplab.training.summaries import RunLog

logger = logging.getLogger("deeplab")

LARGEST_PANEL = 8


class Monitor:
    """Writes TensorBoard pictures of each evaluation: the same examples each time, and the confusion matrix.

    Args:
        log: where they go.
        split: that is evaluated.
        class_names: of the masks.
        examples: (name, image, mask) of the first examples of the first batch of every evaluation.
    """

    def __init__(
        self,
        log: RunLog,
        split: str,
        class_names: tuple[str, ...],
        examples: Iterable[tuple[bytes, np.ndarray, np.ndarray]],
    ) -> None:
        self._log, self._split, self._class_names = log, split, class_names
        self._examples = list(examples)
        self._predictions: list[np.ndarray] = []

    def on_predictions(self, predictions: Iterator[np.ndarray]) -> None:
        """Keeps those of the panel, from an evaluation's first batch; of all others nothing is copied to the host."""
        if not self._predictions:
            self._predictions = [prediction for _, prediction in zip(self._examples, predictions, strict=False)]

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Draws and writes."""
        pictures = {"pictures/confusion_matrix": visualize.confusion_picture(evaluation.confusion, self._class_names)}
        for (name, image, truth), padded in zip(self._examples, self._predictions, strict=True):
            prediction = padded[: truth.shape[0], : truth.shape[1]]
            pictures[f"pictures/{name.decode()}"] = visualize.panel(image, truth, prediction, self._class_names)
        self._predictions = []
        self._log.write_pictures(step, self._split, {tag: np.array(picture) for tag, picture in pictures.items()})


class Profiler:
    """Traces the steps `first` to `last` with TensorFlow's profiler, for TensorBoard's page "Profile"."""

    def __init__(self, model_dir: Path, first: int, last: int) -> None:
        self._model_dir, self._first, self._last = model_dir, first, last
        self._is_tracing = False

    def after(self, step: int) -> None:
        """Starts or ends the trace, if it is time to; `step` steps have been made, and the devices are idle."""
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
