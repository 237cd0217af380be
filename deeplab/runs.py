"""The folder of a run: which model it holds, that it is always the same one, and how to get it back."""

import dataclasses
import json
import logging
from pathlib import Path

import keras

from deeplab.errors import DataError, UsageError
from deeplab.files import write_text
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3
from deeplab.training.checkpoint import best_path, restore_model

logger = logging.getLogger("deeplab")

CHECKPOINTS = "checkpoints"
_CONFIG = "model.json"


def open_run(model_dir: Path, config: ModelConfig, flags_text: str) -> None:
    """Makes the folder, or checks that the run in it has the same model; `flags.txt` then repeats the last start.

    Raises:
        UsageError: the folder holds a run of another model.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    if (model_dir / _CONFIG).exists():
        before, now = read_config(model_dir).to_json(), config.to_json()
        for name, value in now.items():
            if before[name] != value:
                raise UsageError(
                    f"--model_dir={model_dir}: holds a run with {name} {before[name]}, these flags say {value}; "
                    "name another folder or the same settings"
                )
    else:
        write_text(model_dir / _CONFIG, json.dumps(config.to_json(), indent=1) + "\n")
    write_text(model_dir / "flags.txt", flags_text)


def read_config(model_dir: Path) -> ModelConfig:
    """The model of a run.

    Raises:
        DataError: no run there, or a damaged file.
    """
    path = model_dir / _CONFIG
    if not path.exists():
        raise DataError(f"{path}: no such file; is this the folder of a run of train.py?")
    try:
        return ModelConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def load_model(
    model_dir: Path, checkpoint: str | None = None, output_stride: int | None = None
) -> tuple[keras.Model, ModelConfig, str]:
    """The model of a run with the weights of a checkpoint, the best unless one is named; and that checkpoint's path.

    `output_stride`, if given, takes the place of that of training: the weights are the same at any.

    Raises:
        DataError: no run there, no such checkpoint, or one of another model.
    """
    config = read_config(model_dir)
    if output_stride is not None:
        config = dataclasses.replace(config, output_stride=output_stride)
    path = checkpoint or best_path(model_dir / CHECKPOINTS)
    model = build_deeplabv3(config)
    restore_model(model, path)
    return model, config, path


def init_weights(model: keras.Model, source: Path) -> None:
    """Copies what fits, by name and shape, from another run; logs what did not fit and keeps its random values.

    `source` is the folder of a run, whose best checkpoint is taken, or one of its checkpoints
    (MODEL_DIR/checkpoints/best/ckpt-1000).

    Raises:
        DataError: as `load_model`, or nothing fits.
    """
    is_run = (source / _CONFIG).exists() or source.parent.parent.name != CHECKPOINTS
    model_dir, checkpoint = (source, None) if is_run else (source.parents[2], str(source))
    other, _, path = load_model(model_dir, checkpoint)
    values = {variable.path: variable for variable in other.weights}
    left_out = []
    for variable in model.weights:
        value = values.get(variable.path)
        if value is not None and value.shape == variable.shape:
            variable.assign(value)
        else:
            left_out.append(f"{variable.path} {tuple(variable.shape)}")
    if len(left_out) == len(model.weights):
        raise DataError(f"--init_checkpoint={source}: none of its weights fits this model")
    logger.info("%d of %d weights from %s", len(model.weights) - len(left_out), len(model.weights), path)
    for name in left_out:
        logger.warning("not in that checkpoint, or of another shape, and so random: %s", name)
