"""Checkpoints of a run: the latest few to resume from, and the best to use."""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from deeplab.errors import DataError, DeepLabError
from deeplab.files import sync, write_text
from deeplab.settings import setting
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")

LATEST, BEST = "latest", "best"


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoints."""

    keep_checkpoints: int = setting(3, "Latest checkpoints to keep; the best is kept apart.", lower=1, compared=False)


class Checkpoints:
    """`latest/` and `best/` below a folder, both whole checkpoints written by `tf.train.CheckpointManager`.

    They are restored from `directory` and written to `save_directory`, which is another one for all workers but the
    chief. One that could not be written leaves those that stand as they were.

    Args:
        directory: of the run's checkpoints.
        save_directory: where this process saves.
        state: what a checkpoint holds.
        settings: how many to keep.
    """

    def __init__(
        self,
        directory: Path,
        save_directory: Path,
        state: TrainState,
        settings: CheckpointSettings = CheckpointSettings(),
    ) -> None:
        self._state = state
        self._checkpoint = checkpoint = state.as_checkpoint()
        self._restore_directory = directory / LATEST
        self._latest = _manager(checkpoint, save_directory / LATEST, settings.keep_checkpoints)
        self._best = _manager(checkpoint, save_directory / BEST, 1)

    def restore_latest(self) -> str | None:
        """Restores the newest checkpoint that is whole and returns its path; None if there never was one.

        Raises:
            DataError: all are damaged, or it belongs to another model or optimizer.
        """
        found = checkpoints_in(self._restore_directory)
        for path in reversed(found):
            try:
                check_whole(path)
            except DataError as error:
                logger.warning("%s: left out, taking the one before", error)
                continue
            _restore(self._checkpoint, path)
            return path
        if found:
            raise DataError(f"{self._restore_directory}: every checkpoint is damaged; delete the folder to start anew")
        return None

    def resume(self, total_steps: int, num_replicas: int) -> None:
        """Restores as `restore_latest`, notes how many replicas compute from now on, and logs what that changes."""
        path = self.restore_latest()
        step, replicas_before = int(self._state.step), int(self._state.num_replicas)
        self._state.num_replicas.assign(num_replicas)
        if path is not None:
            logger.info("resuming from %s at step %d", path, step)
            if num_replicas != replicas_before:
                logger.info(
                    "replicas: %d instead of %d; each update is that of the same global batch, but its sums round "
                    "otherwise and dropout draws other masks",
                    num_replicas,
                    replicas_before,
                )
        if step >= total_steps:
            logger.info(
                "this run has made %d steps, and %d are asked for; more --train_steps or --epochs go on",
                step,
                total_steps,
            )

    def save_latest(self) -> str:
        """Writes a checkpoint to resume from, numbered by the state's step; returns its path.

        Raises:
            DeepLabError: the disk is full, or not to be written.
        """
        return _save(self._latest, int(self._state.step))

    def save_best(self) -> str:
        """Writes the checkpoint that `eval.py` uses; the one before goes once it stands. Raises as `save_latest`."""
        return _save(self._best, int(self._state.step))

    @property
    def latest_path(self) -> str | None:
        """The newest checkpoint to resume from."""
        return self._latest.latest_checkpoint


def _manager(checkpoint: tf.train.Checkpoint, folder: Path, keep: int) -> tf.train.CheckpointManager:
    """A manager that knows the checkpoints which stand in the folder, whatever became of TensorFlow's list of them."""
    (folder / "checkpoint").unlink(missing_ok=True)
    lines = []
    for path in checkpoints_in(folder):
        # Without its time a checkpoint would be kept for ever.
        lines.append(f'all_model_checkpoint_paths: "{Path(path).name}"')
        lines.append(f"all_model_checkpoint_timestamps: {Path(f'{path}.index').stat().st_mtime}")
    if lines:
        newest = lines[-2].replace("all_model_checkpoint_paths", "model_checkpoint_path")
        write_text(folder / "checkpoint", "\n".join([newest, *lines]) + "\n")
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=keep)


def _save(manager: tf.train.CheckpointManager, step: int) -> str:
    try:
        path = manager.save(checkpoint_number=step)
    except (tf.errors.OpError, OSError) as error:
        for leftover in Path(manager.directory).glob(f"ckpt-{step}_temp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        raise DeepLabError(
            f"{manager.directory}: no checkpoint could be written after step {step} ({str(error).splitlines()[0]}); "
            f"newest whole one: {manager.latest_checkpoint or 'none'}"
        ) from error
    for file in Path(path).parent.glob(f"{Path(path).name}.*"):
        sync(file)
    sync(Path(path).parent)
    return path


def restore_model(model: keras.Model, path: str) -> None:
    """Restores the weights of `model` alone from a checkpoint of a run.

    Raises:
        DataError: no such checkpoint, a damaged one, or one of another model.
    """
    if not Path(f"{path}.index").is_file():
        raise DataError(f"{path}: no such checkpoint; name it as in MODEL_DIR/checkpoints/latest/ckpt-1000")
    check_whole(path)
    _restore(tf.train.Checkpoint(model=model), path)


def checkpoint_step(path: str) -> int:
    """Number of global batches that went into a checkpoint: the number its name ends in, or DataError."""
    number = path.rpartition("-")[2]
    if not number.isdecimal():
        raise DataError(f"{path}: not the name of a checkpoint; it ends in its step, as in ckpt-1000")
    return int(number)


def checkpoints_in(directory: Path) -> list[str]:
    """The checkpoints that stand in a folder, by step.

    The files themselves are looked at, not TensorFlow's list of them, so that a run does not start anew because that
    list was lost.
    """
    names = [path.stem for path in directory.glob("ckpt-*.index") if re.fullmatch(r"ckpt-\d+", path.stem)]
    return [str(directory / name) for name in sorted(names, key=checkpoint_step)]


def best_path(directory: Path) -> str:
    """The checkpoint with the best validation mIoU below a run's checkpoint folder, else its newest.

    Raises:
        DataError: there is none.
    """
    for name in (BEST, LATEST):
        found = checkpoints_in(directory / name)
        if found:
            if name == LATEST:
                logger.warning("no best checkpoint (no evaluation was run): using the newest")
            return found[-1]
    raise DataError(f"{directory}: no checkpoint; has train.py run with this --model_dir?")


def check_whole(path: str) -> None:
    """Reads every tensor of a checkpoint, which TensorFlow checks by its checksum.

    Raises:
        DataError: a file is missing, cut short or changed.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # what TensorFlow raises depends on the byte that is wrong
        raise DataError(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:200]})") from error


def _restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    try:
        status = checkpoint.restore(path).expect_partial()  # no warnings about what only training needs
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of this model: {str(error).splitlines()[0]}") from error
