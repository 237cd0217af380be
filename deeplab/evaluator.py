"""Scores a data set: adds up sums over all batches, takes the ratios once, and shows each prediction to viewers."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.settings import EvaluationSettings
from deeplab.data.shards.split import Split
from deeplab.distribute.devices import check_batch_size
from deeplab.distribute.gpus import untimed_algorithms
from deeplab.errors import DataError
from deeplab.files import is_relative_name
from deeplab.model.inference import Predictor
from deeplab.progress import Progress
from deeplab.threads import Background
from deeplab.training.calibration import Calibration
from deeplab.training.evaluate_step import make_evaluate_step
from deeplab.training.losses import Loss
from deeplab.training.metrics import Evaluation, scores
from deeplab.training.totals import Batch, EvaluationTotals, add

Example = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""The arguments of `Viewer.view`."""


class Viewer(Protocol):
    """Sees the examples of an evaluation, and may add to its record."""

    def wants(self, number: int) -> bool:
        """Whether it wants to see this example, from 0 on; what no viewer wants is not copied from the devices."""

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Sees an example that it wants, at its own size: uint8 RGB [height, width, 3]; masks uint8 [height, width].

        Several threads call it at a time, in any order of examples.
        """

    def results(self) -> Mapping[str, object]:
        """What it adds to the record of the evaluation, by field of `metrics.json`; the evaluation is complete."""


def batches_to_score(settings: EvaluationSettings, split: Split, num_replicas: int) -> EvaluationBatches:
    """The batches of a split; raises UsageError unless the batch size divides among the replicas."""
    size = settings.eval_batch_size or num_replicas
    check_batch_size("eval_batch_size", size, num_replicas)
    return EvaluationBatches(split, size // num_replicas, settings.eval_batch_pixels)


NUM_THREADS = os.cpu_count() or 1
"""Threads in which viewers work, while the devices go on."""

LARGE = 2**22
"""Pixels: a larger image is viewed before the next step, so that no two of them are in memory."""


class Evaluator:
    """Scores one split per call, with the current weights. Do not use it after an interrupted evaluation.

    Args:
        strategy: its replicas share each batch.
        predict: created in the strategy's scope.
        loss: evaluated over the whole split.
        batches: batches of the split to score.
        viewers: see each example of the split with its prediction.
        deterministic: as for `confusion_matrix`.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        predict: Predictor,
        loss: Loss,
        batches: EvaluationBatches,
        *,
        viewers: Sequence[Viewer] = (),
        deterministic: bool = False,
    ) -> None:
        # What is scored, and by what.
        self._strategy = strategy
        self._predict = predict
        self._loss = loss
        self._split = batches.split
        self._evaluate_step = make_evaluate_step(strategy, predict, loss, deterministic)

        # Who sees the predictions.
        self._viewers = viewers

        # The data. One iterator for all evaluations: in TensorFlow 2.21, dropping one can block for as long as it
        # existed, up to a minute (docs/design.md, iterators are kept).
        self._num_steps = 0

        def make_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            self._num_steps = batches.num_steps(context)
            return batches.for_worker(context)

        self._batches = iter(strategy.distribute_datasets_from_function(make_batches))

    def __call__(self) -> Evaluation:
        """Runs over the whole split once."""
        self._predict.read_weights()
        num_examples = self._split.num_examples
        progress = Progress("evaluating", num_examples, "images", first="the network is traced, once per start")

        # Sums over all batches. Viewers work on an example while the next batches are computed.
        totals = None
        num_shown = 0
        with Background(NUM_THREADS) as background:
            for number in range(1, self._num_steps + 1):
                batch_totals, num_of_batch = self._score_batch(num_shown, background)
                totals = batch_totals if totals is None else add(totals, batch_totals)
                num_shown += num_of_batch
                progress.update(number * num_examples // self._num_steps)
        progress.end()

        # The ratios, once.
        assert totals is not None  # a split has an example
        confusion = totals.confusion.numpy()
        return Evaluation(
            losses={name: float(value) for name, value in self._loss.parts(totals.sums).items()},
            scores=scores(confusion, self._split.class_names),
            confusion=confusion,
            num_images=int(totals.num_images),
            calibration=Calibration.of(totals.confidences.numpy()),
            viewed={name: value for viewer in self._viewers for name, value in viewer.results().items()},
        )

    def _score_batch(self, num_shown: int, background: Background) -> tuple[EvaluationTotals, int]:
        """The totals of the next batch, and how many examples viewers were shown; nothing else of it is kept."""
        with untimed_algorithms():
            totals, predictions, batch = self._evaluate_step(self._batches)
        number = 0
        if any(viewer.wants(num_shown) for viewer in self._viewers):
            for example in self._examples(batch, predictions):
                self._show(num_shown + number, example, background)
                number += 1
        return totals, number

    def _show(self, number: int, example: Example, background: Background) -> None:
        """Passes an example to the viewers that want it."""
        _, image, _, _ = example
        is_large = image.shape[0] * image.shape[1] > LARGE
        for viewer in self._viewers:
            if not viewer.wants(number):
                continue
            if is_large:
                viewer.view(*example)
            else:
                background.submit(viewer.view, *example)

    def _examples(self, batch: Batch, predictions: tf.Tensor) -> Iterator[Example]:
        """The examples of a batch, as viewers see them; fillers are left out."""
        columns = [batch["is_example"], batch["name"], batch["image"], batch["label"], predictions]
        for replica in zip(*map(self._strategy.experimental_local_results, columns), strict=True):
            # On CPUs the arrays are the tensors' own memory, which `numpy()` would copy.
            for is_example, name, image, truth, prediction in zip(*map(np.asarray, replica), strict=True):
                if not is_example:
                    continue
                if not is_relative_name(name.decode(errors="replace")):
                    raise DataError(f"{self._split.folder}: an example is called {name!r}, not a plain file name")
                yield name.decode(), image, truth, prediction
