"""Checkpoints of a run: the latest few to resume from, and the best to use. And what else a run remembers."""

import logging
from pathlib import Path

import keras
import tensorflow as tf

from deeplab.errors import DataError

logger = logging.getLogger("deeplab")


class TrainingState(tf.Module):
    """What the loop must remember over a restart, beside weights and optimizer. Host variables."""

    def __init__(self) -> None:
        super().__init__(name="training_state")
        self.evaluated_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best_mean_iou = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        self.evaluations_since_best = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.evaluations_since_plateau = tf.Variable(0, dtype=tf.int64, trainable=False)


class Checkpoints:
    """`latest/` and `best/` below a folder, both whole checkpoints written by `tf.train.CheckpointManager`.

    A checkpoint holds the model, the optimizer with its slots, step and loss scale, the schedule's scale, the state
    of dropout's random numbers (which Keras leaves out of a model's checkpoint) and the loop's `TrainingState`.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        learning_rate_scale: tf.Variable,
        state: TrainingState,
        keep: int = 3,
    ) -> None:
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            learning_rate_scale=learning_rate_scale,
            state=state,
            random_state=[v.value for v in model.variables if v.path.endswith("seed_generator_state")],
        )
        self._checkpoint = checkpoint
        self._latest = tf.train.CheckpointManager(checkpoint, str(directory / "latest"), max_to_keep=keep)
        self._best = tf.train.CheckpointManager(checkpoint, str(directory / "best"), max_to_keep=1)

    def restore_latest(self) -> str | None:
        """Restores the newest checkpoint and returns its path; None if there is none.

        Raises:
            DataError: it cannot be read, or belongs to another model or optimizer.
        """
        path = self._latest.latest_checkpoint
        if path is not None:
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                raise DataError(f"{path}: does not fit this run: {str(error).splitlines()[0]}") from error
        return path

    def save_latest(self, step: int) -> str:
        """Writes a checkpoint to resume from; returns its path."""
        return self._latest.save(checkpoint_number=step)

    def save_best(self, step: int) -> str:
        """Writes the checkpoint that `eval.py` uses; the one before goes once it stands."""
        return self._best.save(checkpoint_number=step)

    @property
    def latest_path(self) -> str | None:
        """The newest checkpoint to resume from."""
        return self._latest.latest_checkpoint


def restore_model(model: keras.Model, path: str) -> None:
    """Restores the weights of `model` alone from a checkpoint of a run.

    Raises:
        DataError: no such checkpoint, or one of another model.
    """
    try:
        status = tf.train.Checkpoint(model=model).restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of this model: {str(error).splitlines()[0]}") from error


def checkpoint_step(path: str) -> int:
    """Number of updates that went into a checkpoint: the number its name ends in, or DataError."""
    number = path.rpartition("-")[2]
    if not number.isdigit():
        raise DataError(f"{path}: not the name of a checkpoint; it ends in its step, as in ckpt-1000")
    return int(number)


def best_path(directory: Path) -> str:
    """The checkpoint with the best validation mIoU below a run's checkpoint folder, else its newest.

    Raises:
        DataError: there is none.
    """
    for name in ("best", "latest"):
        path = tf.train.latest_checkpoint(str(directory / name))
        if path is not None:
            if name == "latest":
                logger.warning("no best checkpoint yet (no evaluation was run): using the newest")
            return path
    raise DataError(f"{directory}: no checkpoint; has train.py run with this --model_dir?")
