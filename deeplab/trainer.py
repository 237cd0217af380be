"""The outer loop: runs compiled steps; logs, saves, evaluates and stops when the plan, or a signal, says so.

The state is saved before it is scored, so that a killed evaluation loses no steps. The changes of an evaluation (best
score, patience, learning rate) are in the next checkpoint; a run that restarts before then repeats the evaluation, with
the same result.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import tensorflow as tf

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.repeats import NO_REPEATS, Repeats
from deeplab.data.input.training_batches import training_batches, training_names
from deeplab.data.shards.split import Split
from deeplab.distribute.workers import Workers
from deeplab.errors import DeepLabError, Interrupted
from deeplab.program.signals import StopRequest
from deeplab.progress import Progress, duration
from deeplab.run.checkpoints import Checkpoints
from deeplab.run.log import RunLog
from deeplab.run.tensorboard import Profiler
from deeplab.training.metrics import Evaluation, per_cent
from deeplab.training.plan import Plan
from deeplab.training.state import TrainState
from deeplab.training.totals import StepTotals, add

logger = logging.getLogger("deeplab")

MIN_LEARNING_RATE_SCALE = 1e-4
"""Plateaus do not lower the learning rate below this share of the schedule's value."""


@dataclass(frozen=True)
class Feed:
    """Training batches, and the names of their examples.

    Attributes:
        batches: distributed iterator, positioned at the state's `examples`.
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
        repeats: Repeats = NO_REPEATS,
    ) -> "Feed":
        """Starts at `first_example`, counted from the start of training; see `data.input.training_batches`."""

        def make_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return training_batches(split, augmentation, global_batch_size, seed, first_example, context, repeats)

        batches = iter(strategy.distribute_datasets_from_function(make_batches))
        return cls(batches, lambda first, count: training_names(split, seed, first, count, repeats))


class Trainer:
    """One training run, from the state's step to the plan's end.

    Args:
        plan: when to log, save, evaluate and stop.
        state: already restored.
        train_step: the function from `make_train_step`.
        feed: the training data.
        evaluate: scores the validation split, or None to train without one.
        checkpoints: saves the state.
        log: writes the records.
        workers: the processes that train together.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        train_step: Callable[[Iterator, tf.Tensor], StepTotals],
        feed: Feed,
        *,
        evaluate: Callable[[], Evaluation] | None,
        checkpoints: Checkpoints,
        log: RunLog,
        workers: Workers,
    ) -> None:
        # What is trained, on what, for how long.
        self._plan = plan
        self._state = state
        self._train_step = train_step
        self._feed = feed
        self._evaluate = evaluate

        # What is saved.
        self._checkpoints = checkpoints
        self._log = log
        self._profiler = Profiler(log.model_dir, *plan.profile_steps) if plan.profile_steps else None
        self._saved_at = time.monotonic()
        self._is_saved = True

        # Who trains together, and whether they should stop.
        self._workers = workers
        self._stop = StopRequest(workers.any, workers.are_several)

    @property
    def _step(self) -> int:
        return int(self._state.step)

    @property
    def _is_early_stop(self) -> bool:
        return 0 < self._plan.early_stopping_patience <= int(self._state.evaluations_since_best)

    @property
    def _is_over(self) -> bool:
        return self._stop.is_agreed or self._step >= self._plan.total_steps or self._is_early_stop

    def train(self) -> None:
        """Trains to the end of the plan, or to early stopping.

        Raises:
            DeepLabError: a loss or gradient that is not finite.
            Interrupted: after SIGTERM, SIGUSR1 or SIGINT to any worker; a checkpoint has been written. All workers
                finish the same step first. If one process trains alone, an evaluation is interrupted, and repeated
                after the restart.
        """
        self._stop.listen()

        # A run may have been stopped after it had saved a step, and before its evaluation of this step ended.
        self._evaluate_if_due()
        self._stop.agree()

        tracing = self._announce_tracing()
        while not self._is_over:
            if self._profiler:
                self._profiler.after(self._step)
            totals, seconds = self._run_to_next_due(tracing)
            tracing = ""
            self._log_training(totals, seconds)

            # Saved before it is scored: a killed evaluation loses no steps. All workers call `_is_late` or none does,
            # since the rest of the condition is the same on all.
            if self._stop.is_agreed or self._plan.checkpoint_due(self._step) or self._is_late():
                self._save()
            if not self._stop.is_agreed:
                self._evaluate_if_due()
            self._stop.agree()  # a signal may have arrived during the evaluation

        # The end, reached or asked for. No worker leaves before the chief has saved.
        if self._profiler:
            self._profiler.close()
        if not self._is_saved:
            self._save()
        self._workers.wait()
        if self._is_early_stop and self._step < self._plan.total_steps:
            logger.info(
                "stopping early at step %d: no better mIoU in %d evaluations",
                self._step,
                int(self._state.evaluations_since_best),
            )
        if self._stop.is_agreed:
            raise Interrupted(
                f"{self._stop.reason}: stopped after step {self._step}, newest checkpoint "
                f"{self._checkpoints.latest_path}; run the same command to resume"
            )

    def _announce_tracing(self) -> str:
        """Logs and returns a note on what the first step waits for; empty if no step is left."""
        if self._step >= self._plan.total_steps:
            return ""
        note = "the step is traced, once per start"
        logger.info("%s", note)
        return note

    def _run_to_next_due(self, tracing: str) -> tuple[StepTotals, float]:
        """Runs steps until something is due; returns their totals and the seconds they took.

        `tracing` is the note on tracing if the first call traces. That call is not timed if others follow.
        """
        # Off a terminal, log lines show the progress; this adds lines only during long silences.
        progress = Progress(
            "training", self._plan.total_steps, "steps", initial=self._step, every_seconds=math.inf, first=tracing
        )
        steps_before = self._step
        timed_from = self._step
        start = time.perf_counter()
        totals: StepTotals | None = None
        while True:
            count = self._plan.steps_to_next_due(self._step)
            with tf.profiler.experimental.Trace("train", step_num=self._step + 1, _r=1):  # marks a step in traces
                call_totals = self._train_step(self._feed.batches, tf.constant(count))
            totals = call_totals if totals is None else add(totals, call_totals)
            self._state.advance(count, self._plan.global_batch_size)
            self._is_saved = False
            self._stop.note_something_to_save()
            progress.update(self._step)

            self._stop.agree()
            if self._plan.anything_due(self._step) or self._stop.is_agreed:
                break
            if tracing:
                tracing = ""
                timed_from = self._step
                start = time.perf_counter()
        totals.confusion.numpy()  # waits for the device
        progress.end()

        # As if all steps took as long as the timed ones.
        seconds_per_step = (time.perf_counter() - start) / (self._step - timed_from)
        return totals, seconds_per_step * (self._step - steps_before)

    def _save(self) -> None:
        self._checkpoints.save_latest()
        self._saved_at = time.monotonic()
        self._is_saved = True

    def _is_late(self) -> bool:
        """Whether a checkpoint is due by any worker's clock."""
        return self._workers.any(0 < self._plan.checkpoint_minutes * 60 < time.monotonic() - self._saved_at)

    def _log_training(self, totals: StepTotals, seconds: float) -> None:
        if float(totals.non_finite):
            self._fail(math.ceil(totals.non_finite))
        self._log.write_training(
            self._step, self._plan, totals, seconds=seconds, learning_rate=self._state.learning_rate()
        )

    def _fail(self, num_steps: int) -> NoReturn:
        """Ends a run whose last `num_steps` steps were not finite, since its weights are not after the first of them.

        Names the images of that first step.
        """
        step = self._step - num_steps + 1
        batch_size = self._plan.global_batch_size
        learning_rate = self._state.learning_rate(updates_ago=num_steps - 1)
        names = self._feed.names(int(self._state.examples) - num_steps * batch_size, batch_size)
        record = {"step": step, "learning_rate": learning_rate, "images": names}
        path = self._log.write_file("non_finite.json", record)
        raise DeepLabError(
            f"loss or gradient not finite in step {step}, at learning rate {learning_rate:.3g}; its images are in "
            f"{path}, last good checkpoint: {self._checkpoints.latest_path or 'none yet'}; lower --learning_rate or "
            "add --warmup_steps"
        )

    def _evaluate_if_due(self) -> None:
        """Evaluates once after each step at which the plan asks for it, unless a signal arrives."""
        is_last = self._step == self._plan.total_steps
        due = self._plan.evaluation_due(self._step) if self._evaluate else is_last
        if not due or int(self._state.evaluated_step) >= self._step:
            return

        start = time.perf_counter()
        with self._state.averaged_weights():
            if self._evaluate is None:
                self._keep_as_best()
                return
            try:
                with self._stop.evaluating():
                    evaluation = self._evaluate()
            except Interrupted:
                return  # the stop request knows of it, and ends the loop
            self._is_saved = False  # the newest checkpoint lacks the scores
            self._score(evaluation, time.perf_counter() - start)

    def _keep_as_best(self) -> None:
        """Without a validation split, the weights of the last step are the best."""
        self._state.evaluated_step.assign(self._step)
        self._checkpoints.save_best()
        self._log.write_best(self._step, None)
        self._log.write_last()
        self._is_saved = False  # the newest checkpoint was saved before

    def _score(self, evaluation: Evaluation, seconds: float) -> None:
        """Logs an evaluation, keeps the best checkpoint, lowers the learning rate on a plateau."""
        result = evaluation.scores
        state = self._state
        self._log.write_evaluation(self._step, "val", evaluation)
        self._log.write_last()
        if state.note_evaluation(result.mean_iou or 0.0):
            self._checkpoints.save_best()
            self._log.write_best(self._step, result.mean_iou)
        logger.info(
            "validation at step %d: loss %.4f  mIoU %s (best %s)  %s",
            self._step,
            evaluation.losses["loss"],
            per_cent(result.mean_iou),
            per_cent(float(state.best_mean_iou)),
            duration(seconds),
            extra={"stands_out": True},
        )

        # A plateau: the learning rate is lowered, and the patience starts over.
        if 0 < self._plan.plateau_patience <= int(state.evaluations_since_plateau):
            state.evaluations_since_plateau.assign(0)
            scale = state.schedule.scale
            scale.assign(max(float(scale) * self._plan.plateau_factor, MIN_LEARNING_RATE_SCALE))
            logger.info(
                "no better mIoU in %d evaluations: learning rate x %.4g", self._plan.plateau_patience, float(scale)
            )
