"""The folder of a run: which model it holds, checks that this never changes, and loading the model."""

import dataclasses
import itertools
import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from deeplab.errors import DataError, UsageError
from deeplab.files import digest, locked, write_text
from deeplab.json_fields import read_json
from deeplab.model.deeplabv3 import build_deeplabv3, without_auxiliary_head
from deeplab.model.initial_values import not_drawn
from deeplab.model.settings import ModelConfig
from deeplab.run.checkpoints import (
    LATEST,
    best_path,
    checkpoints_in,
    has_auxiliary_head,
    restore_model,
    restore_training_model,
)

logger = logging.getLogger("deeplab")

CHECKPOINTS = "checkpoints"
_CONFIG = "model.json"
_FLAGS = "flags.txt"
_IMPORT = "import.json"

_CLASSIFIER = re.compile(r"(?:auxiliary_)?logits/(?:kernel|bias)")
"""Paths of the weights that have a column for each class."""


@contextmanager
def output_folder(model_dir: Path, is_chief: bool) -> Iterator[Path]:
    """The folder that this process writes to: the run's, locked, for the chief; a scratch folder for other workers.

    Every worker calls the functions that save, since saving may need all of them; only the chief's files are kept.

    Raises:
        UsageError: another process trains there.
    """
    if is_chief:
        with locked(model_dir):
            yield model_dir
    else:
        with tempfile.TemporaryDirectory(prefix="deeplab_worker_") as folder:
            yield Path(folder)


def has_checkpoint(model_dir: Path) -> bool:
    """Whether a run in the folder can be resumed: before its first checkpoint there is nothing to resume from."""
    return bool(checkpoints_in(model_dir / CHECKPOINTS / LATEST))


def check_run(
    model_dir: Path, config: ModelConfig, flags_text: str, defaults_text: str, fixed: Collection[str]
) -> None:
    """Checks that the settings continue the run in the folder, and logs which flags changed.

    `flags_text` and `defaults_text` have one flag per line, as in a flagfile. A flag that the run did not record, since
    its version had none, was at its default. `fixed` names the flags that a checkpoint depends on. It also depends on
    float16, which scales the loss.

    Raises:
        UsageError: another model, or flags that change the content of a checkpoint.
    """
    before = read_config(model_dir).to_json()
    now = config.to_json()
    for name, value in now.items():
        if before[name] != value and name != "class_colors":  # only pictures depend on them
            raise _contradiction(model_dir, f"{name} {before[name]}", value)
    path = model_dir / _FLAGS
    recorded = path.read_text(encoding="utf-8") if path.exists() else ""
    flags_before = _by_name(defaults_text) | _by_name(recorded)
    flags_now = _by_name(flags_text)
    for name in sorted(flags_before.keys() | flags_now.keys()):
        was = flags_before.get(name, "not set")
        is_now = flags_now.get(name, "not set")
        if was == is_now:
            continue
        if name in fixed or "--precision=float16" in (was, is_now):
            raise _contradiction(model_dir, was, is_now)
        logger.info("changed since the last start: %s -> %s", was, is_now)


def record_run(model_dir: Path, config: ModelConfig, flags_text: str) -> None:
    """Records in the folder which model it holds, and the flags of this start, which `flags.txt` can repeat."""
    model_dir.mkdir(parents=True, exist_ok=True)
    write_text(model_dir / _CONFIG, json.dumps(config.to_json(), indent=1) + "\n")
    write_text(model_dir / _FLAGS, flags_text)


def record_import(model_dir: Path, source: Path, title: str) -> None:
    """Records in the folder that its weights came from a file of others: which, and what it holds."""
    record = {"file": str(source), "network": title}
    if source.is_file():
        record["sha256"] = digest(source, "sha256")
    write_text(model_dir / _IMPORT, json.dumps(record, indent=1) + "\n")


def check_not_imported(model_dir: Path) -> None:
    """Raises UsageError if a folder holds imported weights, which a training run would take for its own."""
    if (model_dir / _IMPORT).exists():
        raise UsageError(
            f"--model_dir={model_dir}: holds imported weights; train in another folder, with "
            f"--init_checkpoint={model_dir}"
        )


def _contradiction(model_dir: Path, before: str, now: object) -> UsageError:
    return UsageError(
        f"--model_dir={model_dir}: holds a run with {before}, these flags say {now}; "
        "use another folder or the same settings"
    )


def _by_name(flags_text: str) -> dict[str, str]:
    """The lines of a flagfile by the names of their flags."""
    return {_flag_name(line): line for line in flags_text.splitlines()}


def _flag_name(line: str) -> str:
    name = line.partition("=")[0].removeprefix("--")
    return name.removeprefix("no") if "=" not in line else name


def read_config(model_dir: Path) -> ModelConfig:
    """The model of a run.

    Raises:
        DataError: no run there, or a damaged file.
    """
    path = model_dir / _CONFIG
    if not path.exists():
        if (model_dir / "saved_model.pb").exists():
            raise DataError(f"{model_dir}: an export; name the folder of the run that it was made from")
        raise DataError(f"{path}: no such file; is this the folder of a run of train.py?")
    try:
        return ModelConfig.from_json(read_json(path))
    except (OSError, ValueError, UsageError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def load_model(
    model_dir: Path, checkpoint: str | None = None, output_stride: int | None = None
) -> tuple[keras.Model, ModelConfig, str]:
    """The model of a run with the weights of a checkpoint, the best by default; its config; the checkpoint's path.

    `output_stride`, if given, replaces the stride used in training: the weights are the same at any stride.

    Raises:
        DataError: no run there, no such checkpoint, or a checkpoint of another model.
    """
    config = read_config(model_dir)
    if output_stride is not None:
        config = dataclasses.replace(config, output_stride=output_stride)
    path = checkpoint or best_path(model_dir / CHECKPOINTS)
    with not_drawn():
        model = build_deeplabv3(config)
    restore_model(model, path)
    return model, config, path


def init_weights(model: keras.Model, source: Path, class_names: Sequence[str]) -> None:
    """Copies the weights that match in name and shape from another run; the others stay random and are logged.

    `source` is the folder of a run, whose best checkpoint is used, or one of its checkpoints
    (MODEL_DIR/checkpoints/best/ckpt-1000). The classifier's columns are taken by the names of the classes, whatever
    their order and number; `class_names` are those of `model`, by index.

    Raises:
        DataError: as `load_model`, or no weights match.
    """
    model_dir = run_of(source)
    config = read_config(model_dir)
    path = best_path(model_dir / CHECKPOINTS) if model_dir == source else str(source)
    other = build_deeplabv3(config, auxiliary_head=has_auxiliary_head(path))
    restore_training_model(without_auxiliary_head(other), other, path)
    values = {variable.path: variable for variable in other.weights}
    columns = _common_classes(class_names, config.class_names)
    left_out = []
    for variable in model.weights:
        value = values.get(variable.path)
        if value is not None and _CLASSIFIER.fullmatch(variable.path) and value.shape[:-1] == variable.shape[:-1]:
            variable.assign(_with_columns(variable.numpy(), value.numpy(), columns))
        elif value is not None and value.shape == variable.shape:
            variable.assign(value)
        else:
            left_out.append(f"{variable.path} {tuple(variable.shape)}")
    if len(left_out) == len(model.weights):
        raise DataError(f"--init_checkpoint={source}: none of its weights fit this model")
    logger.info("%d of %d weights from %s", len(model.weights) - len(left_out), len(model.weights), path)
    _log_classes(class_names, config.class_names, columns)
    for name in left_out:
        logger.warning("missing from that checkpoint, or of another shape, and so random: %s", name)


def run_of(source: Path) -> Path:
    """The folder of the run that a value of --init_checkpoint names: itself, or the one that has the checkpoint."""
    is_checkpoint = not (source / _CONFIG).exists() and source.parent.parent.name == CHECKPOINTS
    return source.parents[2] if is_checkpoint else source


def check_classes(tfrecord_dir: Path, names: Sequence[str], of_model: Sequence[str]) -> None:
    """Raises UsageError, with the first difference, unless shards have the classes of the model in its order."""
    for index, (name, other) in enumerate(itertools.zip_longest(names, of_model)):
        if name != other:
            here, there = ("missing" if each is None else repr(each) for each in (name, other))
            raise UsageError(
                f"--tfrecord_dir={tfrecord_dir}: its classes are not those of the model: "
                f"class {index} is {here}, the model's is {there}"
            )


def _common_classes(names: Sequence[str], other_names: Sequence[str]) -> dict[int, int]:
    """Index of a class -> its index in another list; names are compared without case and outer blanks."""
    places = {name.strip().casefold(): index for index, name in enumerate(other_names)}
    matches = {index: places.get(name.strip().casefold()) for index, name in enumerate(names)}
    return {index: place for index, place in matches.items() if place is not None}


def _with_columns(own: np.ndarray, other: np.ndarray, columns: dict[int, int]) -> np.ndarray:
    """`own` [..., classes] with columns from `other` [..., other classes]: own index -> the other's."""
    result = own.copy()
    for index, place in columns.items():
        result[..., index] = other[..., place]
    return result


def _log_classes(names: Sequence[str], other_names: Sequence[str], columns: dict[int, int]) -> None:
    """Logs which classes keep their part of the classifier, which are new, and which are gone."""
    if len(columns) == len(names) == len(other_names):
        moved = any(index != place for index, place in columns.items())
        logger.info("classes: the same %d%s", len(names), ", in another order: taken by name" if moved else "")
        return
    kept = [names[index] for index in columns]
    new = [name for index, name in enumerate(names) if index not in columns]
    removed = [name for place, name in enumerate(other_names) if place not in columns.values()]
    parts = {"kept": kept, "new, and so random": new, "gone": removed}
    logger.info("classes: %s", "; ".join(f"{words}: {', '.join(part)}" for words, part in parts.items() if part))
