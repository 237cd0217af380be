"""Checkpoints of a run: the latest few, to resume from, and the best, to use."""

import logging
import re
import shutil
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from deeplab.errors import DataError, DeepLabError
from deeplab.files import sync, write_text
from deeplab.run.checkpoints_of_0_1 import GRAPH, in_current_form
from deeplab.run.settings import CheckpointSettings
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")

LATEST = "latest"
BEST = "best"


class Checkpoints:
    """`latest/` and `best/` in a folder, both complete checkpoints written by `tf.train.CheckpointManager`.

    They are restored from `directory` and written to `save_directory`, which is a different folder for all workers
    except the chief. A failed write leaves existing checkpoints intact.

    Args:
        directory: folder of the run's checkpoints.
        save_directory: folder in which this process saves.
        state: the content of a checkpoint.
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
        """Restores the newest intact checkpoint and returns its path; None if there is no checkpoint.

        Raises:
            DataError: all checkpoints are damaged, or the newest belongs to another model or optimizer.
        """
        paths = checkpoints_in(self._restore_directory)
        for path in reversed(paths):
            try:
                check_whole(path)
            except DataError as error:
                logger.warning("%s: skipped, using the previous one", error)
                continue
            _restore(self._checkpoint, path)
            return path
        if paths:
            raise DataError(f"{self._restore_directory}: every checkpoint is damaged; delete the folder to start over")
        return None

    def resume(self, total_steps: int, num_replicas: int) -> None:
        """Restores as `restore_latest`, records the number of replicas from now on, and logs if it changed."""
        path = self.restore_latest()
        step = int(self._state.step)
        replicas_before = int(self._state.num_replicas)
        self._state.num_replicas.assign(num_replicas)
        if path is not None:
            logger.info("resuming from %s at step %d", path, step)
            if num_replicas != replicas_before:
                logger.info(
                    "replicas: %d instead of %d; each update is computed from the same global batch, but sums are "
                    "rounded differently",
                    num_replicas,
                    replicas_before,
                )
        if step >= total_steps:
            logger.info("%d of %d steps are done; to go on, raise --train_steps or --epochs", step, total_steps)

    def save_latest(self) -> str:
        """Writes a checkpoint to resume from, numbered by the state's step; returns its path.

        Raises:
            DeepLabError: the disk is full or not writable.
        """
        return _save(self._latest, int(self._state.step))

    def save_best(self) -> str:
        """Writes the checkpoint that `eval.py` uses, then deletes the previous one. Raises as `save_latest`."""
        return _save(self._best, int(self._state.step))

    @property
    def latest_path(self) -> str | None:
        """The newest checkpoint to resume from."""
        return self._latest.latest_checkpoint


def _manager(checkpoint: tf.train.Checkpoint, folder: Path, keep: int) -> tf.train.CheckpointManager:
    """A manager that knows the checkpoints in the folder, even if TensorFlow's list of them is lost or wrong."""
    (folder / "checkpoint").unlink(missing_ok=True)
    lines = []
    for path in checkpoints_in(folder):
        # Without its timestamp a checkpoint would be kept for ever.
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
            f"newest intact one: {manager.latest_checkpoint or 'none'}"
        ) from error
    for file in Path(path).parent.glob(f"{Path(path).name}.*"):
        sync(file)
    sync(Path(path).parent)
    return path


def save_imported(directory: Path, model: keras.Model, training_model: keras.Model) -> None:
    """Writes weights that were not trained here as the best checkpoint, at step 0; the folder is the run's own.

    `training_model` is the network with its auxiliary head, or `model` itself. Raises as `Checkpoints.save_best`.
    """
    _save(_manager(tf.train.Checkpoint(model=model, training_model=training_model), directory / BEST, 1), 0)


def restore_model(model: keras.Model, path: str) -> None:
    """Restores only the weights of `model` from a checkpoint of a run; what only training needs is not read.

    Raises:
        DataError: the checkpoint does not exist, is damaged or belongs to another model.
    """
    _check_exists(path)
    _restore(tf.train.Checkpoint(model=model), path)


def restore_training_model(model: keras.Model, training_model: keras.Model, path: str) -> None:
    """The same for a network with its auxiliary head, `training_model`, whose first output is that of `model`."""
    _check_exists(path)
    _restore(tf.train.Checkpoint(model=model, training_model=training_model), path)


def has_auxiliary_head(path: str) -> bool:
    """Whether a checkpoint holds an auxiliary head; DataError if it cannot be read."""
    _check_exists(path)
    try:
        reader = tf.train.load_checkpoint(path)
        graph = TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))
    except Exception as error:  # as in `check_whole`
        raise _damaged(path, error) from error
    return any(each.full_name.startswith("auxiliary_") for node in graph.nodes for each in node.attributes)


def _check_exists(path: str) -> None:
    if not Path(f"{path}.index").is_file():
        raise DataError(f"{path}: no such checkpoint; name it as in MODEL_DIR/checkpoints/latest/ckpt-1000")


def checkpoint_step(path: str) -> int:
    """Number of global batches before a checkpoint: the number at the end of its name; DataError without one."""
    number = path.rpartition("-")[2]
    if not number.isdecimal():
        raise DataError(f"{path}: not the name of a checkpoint, which ends in its step, as in ckpt-1000")
    return int(number)


def checkpoints_in(directory: Path) -> list[str]:
    """The checkpoints in a folder, sorted by step.

    This looks at the files themselves, not at TensorFlow's list of them, so that losing that list does not make a run
    start over.
    """
    names = [path.stem for path in directory.glob("ckpt-*.index") if re.fullmatch(r"ckpt-\d+", path.stem)]
    return [str(directory / name) for name in sorted(names, key=checkpoint_step)]


def best_path(directory: Path) -> str:
    """The checkpoint with the best validation mIoU in a run's checkpoint folder, else the newest.

    Raises:
        DataError: there is no checkpoint.
    """
    for name in (BEST, LATEST):
        paths = checkpoints_in(directory / name)
        if paths:
            if name == LATEST:
                logger.warning("no best checkpoint (no evaluation was run): using the newest")
            return paths[-1]
    raise DataError(f"{directory}: no checkpoint; has train.py run with this --model_dir?")


def check_whole(path: str) -> None:
    """Reads every tensor of a checkpoint; TensorFlow verifies their checksums.

    Raises:
        DataError: a file is missing, truncated or changed.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # the type of TensorFlow's exception depends on the damaged byte
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:200]})")


def _restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    try:
        with in_current_form(path) as current:
            status = checkpoint.restore(current).expect_partial()  # no warnings about what only training needs
            status.assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of this model: {str(error).splitlines()[0]}") from error
    except (tf.errors.OpError, IndexError) as error:  # TensorFlow verifies the checksums of what it reads
        raise _damaged(path, error) from error
