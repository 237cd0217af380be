"""The outer loop: runs compiled steps, and knows when to log, evaluate, save and end. It never sees a tensor's shape.

A checkpoint is written after the evaluation of its step, so that a run that is started again continues as if it had
never stopped.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import tensorflow as tf

from deeplab.data.augmentation import Augmentation
from deeplab.data.pipeline import training_batches, training_names
from deeplab.data.split import Split
from deeplab.distribute.workers import Workers
from deeplab.errors import DeepLabError, Interrupted
from deeplab.program.signals import STOP_SIGNALS, signals_seen
from deeplab.progress import Progress
from deeplab.run.checkpoints import Checkpoints
from deeplab.run.log import RunLog
from deeplab.run.tensorboard import Profiler
from deeplab.training.metrics import Evaluation, per_cent
from deeplab.training.plan import Plan
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")

MIN_LEARNING_RATE_SCALE = 1e-4
"""A plateau does not lower the learning rate below this share of it."""


@dataclass(frozen=True)
class Feed:
    """Training batches, and the names of what is in them.

    Attributes:
        batches: distributed iterator, at the state's `examples`.
        names: (number of the first example, how many) -> names, counted from the start of training.
    """

    batches: Iterator
    names: Callable[[int, int], list[str]]

    @classmethod
    def make(
        cls,
        strategy: tf.distribute.Strategy,
        split: Split,
        augmentation: Augmentation,
        global_batch_size: int,
        seed: int,
        first_example: int,
    ) -> "Feed":
        """From `first_example` on, counted from the start of training; see `pipeline.training_batches`."""

        def make_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return training_batches(split, augmentation, global_batch_size, seed, first_example, context)

        batches = iter(strategy.distribute_datasets_from_function(make_batches))
        return cls(batches, lambda first, count: training_names(split, seed, first, count))


class Trainer:
    """One training run, from the state's step to the plan's end.

    Args:
        plan: when to do what.
        state: restored already.
        train_step: `make_train_step`'s function.
        feed: what to train on.
        evaluate: scores the validation split, or None to train without one.
        checkpoints: where the state is saved.
        log: where records go.
        workers: the processes that train together.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        train_step: Callable,
        feed: Feed,
        evaluate: Callable[[], Evaluation] | None,
        checkpoints: Checkpoints,
        log: RunLog,
        workers: Workers,
    ) -> None:
        self._plan, self._state, self._train_step, self._feed = plan, state, train_step, feed
        self._evaluate, self._checkpoints, self._log, self._workers = evaluate, checkpoints, log, workers
        self._profiler = Profiler(log.model_dir, *plan.profile_steps) if plan.profile_steps else None
        self._saved_at = time.monotonic()
        self._signal: int | None = signals_seen[0] if signals_seen else None
        self._is_interrupted = False
        self._is_evaluating = False

    @property
    def _step(self) -> int:
        return int(self._state.step)

    def run(self) -> None:
        """Trains to the end of the plan, or to early stopping.

        Raises:
            DeepLabError: a loss or gradient that is not finite.
            Interrupted: SIGTERM, SIGUSR1 or SIGINT came, to any worker, and a checkpoint is written. All workers finish
                the same step before; an evaluation is broken off, where one process trains alone, and made up when
                the run starts again.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        progress = Progress("training", self._plan.total_steps, "steps", initial=self._step, every_seconds=math.inf)
        if self._evaluate_if_due():  # a signal came between this step and the end of its evaluation
            self._save()
        self._look_for_signals()
        while not self._is_interrupted and self._step < self._plan.total_steps and not self._is_early_stop():
            if self._profiler:
                self._profiler.after(self._step)
            totals, seconds = self._run_to_next_due(progress)
            progress.clear()
            self._log_training(totals, seconds)
            if not self._is_interrupted:
                self._evaluate_if_due()
            self._look_for_signals()
            if self._is_interrupted or self._plan.checkpoint_due(self._step) or self._is_late():
                self._save()
        if self._profiler:
            self._profiler.close()
        self._workers.wait()  # no worker leaves before the chief has saved
        if self._is_interrupted:
            name = signal.Signals(self._signal).name if self._signal else "a signal to another worker"
            raise Interrupted(
                f"{name}: stopped after step {self._step}, newest checkpoint {self._checkpoints.latest_path}; "
                "the same command goes on from it"
            )

    def _run_to_next_due(self, progress: Progress) -> tuple[dict[str, tf.Tensor], float]:
        """Steps until there is something to do; their totals, and the seconds they took."""
        start = time.perf_counter()
        totals: dict[str, tf.Tensor] = {}
        while True:
            count = self._plan.steps_to_next_due(self._step)
            with tf.profiler.experimental.Trace("train", step_num=self._step + 1, _r=1):  # marks a step in traces
                call_totals = self._train_step(self._feed.batches, tf.constant(count))
            totals = {name: value + totals[name] if totals else value for name, value in call_totals.items()}
            self._state.advance(count, self._plan.global_batch_size)
            progress.update(self._step)
            self._look_for_signals()
            if self._plan.anything_due(self._step) or self._is_interrupted:
                break
        totals["confusion"] = totals["confusion"].numpy()  # waits for the device
        return totals, time.perf_counter() - start

    def _save(self) -> None:
        self._checkpoints.save_latest()
        self._saved_at = time.monotonic()

    def _is_late(self) -> bool:
        """Whether a checkpoint is due by any worker's clock."""
        return self._workers.any(0 < self._plan.checkpoint_minutes * 60 < time.monotonic() - self._saved_at)

    def _log_training(self, totals: dict[str, tf.Tensor], seconds: float) -> None:
        if float(totals["non_finite"]):
            self._fail(math.ceil(totals["non_finite"]))
        learning_rate = float(self._state.schedule(self._step - 1))
        self._log.write_training(self._step, self._plan, totals, seconds, learning_rate)

    def _fail(self, num_steps: int) -> NoReturn:
        """Ends a run whose last `num_steps` steps were not finite: after the first of them the weights are not."""
        step = self._step - num_steps + 1
        batch_size = self._plan.global_batch_size
        learning_rate = float(self._state.schedule(step - 1))
        names = self._feed.names(int(self._state.examples) - num_steps * batch_size, batch_size)
        record = {"step": step, "learning_rate": learning_rate, "images": names}
        path = self._log.write_file("non_finite.json", record)
        raise DeepLabError(
            f"loss or gradient not finite in step {step}, at learning rate {learning_rate:.3g}; its images are in "
            f"{path}, last good checkpoint: {self._checkpoints.latest_path or 'none yet'}; lower --learning_rate or "
            "add --warmup_steps"
        )

    def _evaluate_if_due(self) -> bool:
        """Evaluates after a step that the plan names, once, unless a signal comes; whether it did.

        Without a validation split the last step's weights are kept as the best.
        """
        is_last = self._step == self._plan.total_steps
        due = self._plan.evaluation_due(self._step) if self._evaluate else is_last
        if not due or int(self._state.evaluated_step) >= self._step:
            return False
        with self._state.averaged_weights():
            if self._evaluate is None:
                self._state.evaluated_step.assign(self._step)
                self._checkpoints.save_best()
                self._log.write_best(self._step, None)
                self._log.write_last()
                return True
            self._is_evaluating = True
            try:
                evaluation = self._evaluate()
            except Interrupted:
                return False
            finally:
                self._is_evaluating = False
            self._score(evaluation)
        return True

    def _score(self, evaluation: Evaluation) -> None:
        """Logs an evaluation, keeps the best checkpoint, lowers the learning rate on a plateau."""
        result, state = evaluation.scores, self._state
        self._log.write_evaluation(self._step, "val", evaluation)
        self._log.write_last()
        if state.note_evaluation(result.mean_iou or 0.0):
            self._checkpoints.save_best()
            self._log.write_best(self._step, result.mean_iou)
        logger.info(
            "validation at step %d: loss %.4f  mIoU %s (best %s)  pixel accuracy %s  %d images",
            self._step,
            evaluation.losses["loss"],
            per_cent(result.mean_iou),
            per_cent(float(state.best_mean_iou)),
            per_cent(result.pixel_accuracy),
            evaluation.num_images,
        )
        if 0 < self._plan.plateau_patience <= int(state.evaluations_since_plateau):
            state.evaluations_since_plateau.assign(0)
            scale = state.schedule.scale
            scale.assign(max(float(scale) * self._plan.plateau_factor, MIN_LEARNING_RATE_SCALE))
            logger.info("no better mIoU in %d evaluations: rate x %.4g", self._plan.plateau_patience, float(scale))

    def _is_early_stop(self) -> bool:
        waited = int(self._state.evaluations_since_best)
        if 0 < self._plan.early_stopping_patience <= waited:
            logger.info("stopping early at step %d: no better mIoU in %d evaluations", self._step, waited)
            return True
        return False

    def _look_for_signals(self) -> None:
        """Whether a signal came to any worker, so that all of them end after the same step."""
        self._is_interrupted = self._is_interrupted or self._workers.any(self._signal is not None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal for the loop; the next one of its kind ends the program at once."""
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(number).name
        if self._is_evaluating and not self._workers.are_several:  # else others would wait for this worker
            raise Interrupted(name)
        logger.warning("%s: stopping after this step", name)
