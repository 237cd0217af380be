"""The outer loop: runs compiled steps, and knows when to log, evaluate, save and stop. It never sees a tensor's shape.

A checkpoint is written after the evaluation of its step, so that a run that is started again goes on as if it had
never stopped.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import tensorflow as tf

from deeplab.errors import STOP_SIGNALS, DeepLabError, Interrupted, signals_seen
from deeplab.monitor import Monitor, Profiler
from deeplab.progress import Progress, duration
from deeplab.training.checkpoint import Checkpoints, TrainingState
from deeplab.training.evaluation import Evaluation
from deeplab.training.metrics import scores
from deeplab.training.schedules import Schedule
from deeplab.training.summaries import RunLog, peak_memory

logger = logging.getLogger("deeplab")

MIN_RATE_SCALE = 1e-4
"""Reduce-on-plateau stops lowering the rate here."""


@dataclass(frozen=True)
class Plan:
    """How long to train and what to do on the way. A patience counts evaluations without a better mIoU; 0 is never.

    `steps_per_epoch` need not be whole: batches run across epochs. `eval_every_epochs` 0 evaluates at the end alone.
    `checkpoint_minutes` is looked at after each log line; 0 is never.
    `profile_steps` are the first and the last step that the profiler traces.
    """

    train_steps: int
    steps_per_epoch: float
    global_batch_size: int
    steps_per_call: int = 1
    log_every_steps: int = 20
    eval_every_epochs: float = 1.0
    checkpoint_steps: int = 1000
    checkpoint_minutes: float = 0.0
    plateau_patience: int = 0
    plateau_factor: float = 0.5
    early_stopping_patience: int = 0
    profile_steps: tuple[int, int] | None = None

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due after this step: the first after each `eval_every_epochs`, and the last."""
        if step == self.train_steps:
            return True
        if not self.eval_every_epochs:
            return False
        interval = self.steps_per_epoch * self.eval_every_epochs
        return math.floor(step / interval) > math.floor((step - 1) / interval)

    def steps_to_boundary(self, step: int) -> int:
        """How many steps, at most `steps_per_call`, may run in one call before the loop has something to do."""
        count = 1
        while count < self.steps_per_call and not self.stops_at(step + count):
            count += 1
        return count

    def stops_at(self, step: int) -> bool:
        """Whether the loop has something to do after this step."""
        first, last = self.profile_steps or (0, 0)
        return step % self.log_every_steps == 0 or self.saves_at(step) or step in (first - 1, last)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, if none is due by the clock."""
        return step % self.checkpoint_steps == 0 or self.evaluates_at(step)


class Trainer:
    """One training run, from `first_step` to the plan's end.

    Args:
        plan: when to do what.
        train: `make_train_function`'s function.
        batches: distributed iterator over training batches, standing at `first_step`.
        evaluate: scores the validation split, or None to train without one.
        checkpoints: of this run, restored already.
        state: the loop's memory, restored already.
        schedule: gives the learning rate that is logged; its scale is lowered on a plateau.
        log: where records go.
        class_names: names for `per_class_iou`.
        example_names: (number of the first example, how many) -> names, counted from the start of training.
        averaged_weights: gives a context in which the model has the weights to be scored and kept as the best.
        any_worker: tells whether a flag is up in any of the processes that train together, each of which calls it at
            the same points; None for a process that trains alone.
        monitor: draws each evaluation, if given.
        profiler: traces the plan's `profile_steps`, if given.
    """

    def __init__(
        self,
        plan: Plan,
        train: Callable,
        batches: Iterator,
        evaluate: Callable[[], Evaluation] | None,
        checkpoints: Checkpoints,
        state: TrainingState,
        schedule: Schedule,
        log: RunLog,
        class_names: tuple[str, ...],
        example_names: Callable[[int, int], list[str]],
        averaged_weights: Callable[[], AbstractContextManager] = nullcontext,
        any_worker: Callable[[bool], bool] | None = None,
        monitor: Monitor | None = None,
        profiler: Profiler | None = None,
    ) -> None:
        self._plan, self._train, self._batches, self._evaluate = plan, train, batches, evaluate
        self._checkpoints, self._state, self._schedule, self._log = checkpoints, state, schedule, log
        self._class_names, self._averaged_weights = class_names, averaged_weights
        self._example_names = example_names
        self._step, self._examples = int(state.step), int(state.examples)
        self._any_worker = any_worker or (lambda flag: flag)
        self._works_alone = any_worker is None
        self._monitor, self._profiler = monitor, profiler
        self._saved_at = time.monotonic()
        self._signal: int | None = signals_seen[0] if signals_seen else None
        self._is_stopping = False
        self._is_evaluating = False

    def run(self) -> None:
        """Trains to the end of the plan, or to early stopping.

        Raises:
            DeepLabError: a loss or gradient that is not finite.
            Interrupted: SIGTERM, SIGUSR1 or SIGINT came, to any worker, and a checkpoint stands. All workers finish
                the same step before; an evaluation is broken off, where one process trains alone, and made up when
                the run starts again.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        plan = self._plan
        progress = Progress("training", plan.train_steps, "steps", initial=self._step, every_seconds=math.inf)
        if self._evaluate_if_due():  # a signal came between this step and the end of its evaluation
            self._save()
        self._is_stopping = self._is_stopping_anywhere()
        while not self._is_stopping and self._step < plan.train_steps and not self._should_stop_early():
            if self._profiler:
                self._profiler.after(self._step)
            totals, seconds = self._run_to_boundary(progress)
            progress.clear()
            self._log_training(totals, seconds)
            if not self._is_stopping:
                self._evaluate_if_due()
            self._is_stopping = self._is_stopping or self._is_stopping_anywhere()
            is_late = 0 < plan.checkpoint_minutes * 60 < time.monotonic() - self._saved_at
            if self._is_stopping or plan.saves_at(self._step) or self._any_worker(is_late):
                self._save()
        if self._profiler:
            self._profiler.close()
        self._is_stopping_anywhere()  # no worker leaves before the chief has saved
        if self._is_stopping:
            name = signal.Signals(self._signal).name if self._signal else "a signal to another worker"
            raise Interrupted(
                f"{name}: stopped after step {self._step}, newest checkpoint {self._checkpoints.latest_path}; "
                "the same command goes on from it"
            )

    def _run_to_boundary(self, progress: Progress) -> tuple[dict[str, tf.Tensor], float]:
        """Steps until there is something to do; their totals, and the seconds they took."""
        start = time.perf_counter()
        totals: dict[str, tf.Tensor] = {}
        while True:
            count = self._plan.steps_to_boundary(self._step)
            with tf.profiler.experimental.Trace("train", step_num=self._step + 1, _r=1):  # marks a step in traces
                call_totals = self._train(self._batches, tf.constant(count))
            totals = {name: value + totals[name] if totals else value for name, value in call_totals.items()}
            self._step += count
            self._examples += count * self._plan.global_batch_size
            progress.update(self._step)
            self._is_stopping = self._is_stopping_anywhere()
            if self._plan.stops_at(self._step) or self._is_stopping:
                break
        totals["confusion"] = totals["confusion"].numpy()  # waits for the device
        return totals, time.perf_counter() - start

    def _save(self) -> None:
        self._note_position()
        self._checkpoints.save_latest(self._step)
        self._saved_at = time.monotonic()

    def _note_position(self) -> None:
        self._state.step.assign(self._step)
        self._state.examples.assign(self._examples)

    def _fail(self, num_steps: int) -> NoReturn:
        """Ends a run whose last `num_steps` steps were not finite: after the first of them the weights are not."""
        step = self._step - num_steps + 1
        batch_size = self._plan.global_batch_size
        rate = float(self._schedule(step - 1))
        names = self._example_names(self._examples - num_steps * batch_size, batch_size)
        path = self._log.write_file("non_finite.json", {"step": step, "learning_rate": rate, "images": names})
        raise DeepLabError(
            f"loss or gradient not finite in step {step}, at learning rate {rate:.3g}; its images are in {path}, last "
            f"good checkpoint: {self._checkpoints.latest_path or 'none yet'}; lower --learning_rate or add "
            "--warmup_steps"
        )

    def _log_training(self, totals: dict[str, tf.Tensor], seconds: float) -> None:
        steps = float(totals["steps"])
        if float(totals["non_finite"]):
            self._fail(math.ceil(totals["non_finite"]))
        updates = steps - float(totals["skipped"])
        if updates < steps:
            logger.warning(
                "%.0f of %.0f updates up to step %d skipped: overflow in float16", steps - updates, steps, self._step
            )
        if not updates:
            return
        means = {
            name: float(total) / updates
            for name, total in totals.items()
            if name not in ("steps", "confusion", "non_finite", "skipped")
        }
        result = scores(totals["confusion"])
        epoch = self._step / self._plan.steps_per_epoch
        step_seconds = seconds / steps
        images_per_second = self._plan.global_batch_size / step_seconds
        rate = float(self._schedule(self._step - 1))
        if "data_wait_seconds" in means:
            means["compute_seconds"] = max(step_seconds - means["data_wait_seconds"], 0.0)
        record = {
            "epoch": round(epoch, 4),
            **means,
            "learning_rate": rate,
            "images_per_second": images_per_second,
            "step_seconds": step_seconds,
            **peak_memory(),
            **result.to_json(self._class_names),
        }
        self._log.write(self._step, "train", record)
        remaining = (self._plan.train_steps - self._step) * step_seconds
        logger.info(
            "step %d/%d  epoch %.2f  loss %.4f  mIoU %s  rate %.3g  %.1f img/s  ETA %s",
            self._step,
            self._plan.train_steps,
            epoch,
            means["loss"],
            _per_cent(result.mean_iou),
            rate,
            images_per_second,
            duration(remaining),
        )

    def _evaluate_if_due(self) -> bool:
        """Evaluates after a step that the plan names, once, unless a signal comes; whether it did.

        Without a validation split the last step's weights are kept as the best.
        """
        due = self._plan.evaluates_at(self._step) if self._evaluate else self._step == self._plan.train_steps
        if not due or int(self._state.evaluated_step) >= self._step:
            return False
        with self._averaged_weights():
            if self._evaluate:
                self._is_evaluating = True
                try:
                    evaluation = self._evaluate()
                except Interrupted:
                    return False
                finally:
                    self._is_evaluating = False
                self._state.evaluated_step.assign(self._step)
                self._score(evaluation)
            else:
                self._state.evaluated_step.assign(self._step)
                self._note_position()
                self._checkpoints.save_best(self._step)
                self._log.write_best(self._step, None)
                self._log.write_last()
        return True

    def _score(self, evaluation: Evaluation) -> None:
        """Logs an evaluation, keeps the best checkpoint, lowers the rate on a plateau."""
        result, state = evaluation.scores, self._state
        record = {
            **evaluation.losses,
            **result.to_json(self._class_names),
            "num_images": evaluation.num_images,
        }
        self._log.write(self._step, "val", record)
        self._log.write_last()
        if self._monitor:
            self._monitor.on_evaluation(self._step, evaluation)
        mean_iou = result.mean_iou if result.mean_iou is not None else 0.0
        if mean_iou > float(state.best_mean_iou):
            state.best_mean_iou.assign(mean_iou)
            state.evaluations_since_best.assign(0)
            state.evaluations_since_plateau.assign(0)
            self._note_position()
            self._checkpoints.save_best(self._step)
            self._log.write_best(self._step, result.mean_iou)
        else:
            state.evaluations_since_best.assign_add(1)
            state.evaluations_since_plateau.assign_add(1)
        logger.info(
            "validation at step %d: loss %.4f  mIoU %s (best %s)  pixel accuracy %s  %d images",
            self._step,
            evaluation.losses["loss"],
            _per_cent(result.mean_iou),
            _per_cent(float(state.best_mean_iou)),
            _per_cent(result.pixel_accuracy),
            evaluation.num_images,
        )
        if 0 < self._plan.plateau_patience <= int(state.evaluations_since_plateau):
            state.evaluations_since_plateau.assign(0)
            scale = self._schedule.scale
            scale.assign(max(float(scale) * self._plan.plateau_factor, MIN_RATE_SCALE))
            logger.info("no better mIoU in %d evaluations: rate x %.4g", self._plan.plateau_patience, float(scale))

    def _should_stop_early(self) -> bool:
        waited = int(self._state.evaluations_since_best)
        if 0 < self._plan.early_stopping_patience <= waited:
            logger.info("stopping early at step %d: no better mIoU in %d evaluations", self._step, waited)
            return True
        return False

    def _is_stopping_anywhere(self) -> bool:
        return self._any_worker(self._signal is not None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal for the loop; the next one of its kind ends the program at once."""
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(number).name
        if self._is_evaluating and self._works_alone:  # else others would wait for this worker
            raise Interrupted(name)
        logger.warning("%s: stopping after this step", name)


def _per_cent(fraction: float | None) -> str:
    return f"{100 * fraction:.2f} %" if fraction is not None else "-"
