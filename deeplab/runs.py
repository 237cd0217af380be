"""The folder of a run: which model it holds, that it is always the same one, and how to get it back."""

import json
from pathlib import Path

import keras

from deeplab.errors import DataError, UsageError
from deeplab.files import write_text
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3
from deeplab.training.checkpoint import best_path, restore_model

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
        raise DataError(f"{path}: no such file; is --model_dir the folder of a run of train.py?")
    try:
        return ModelConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def load_model(model_dir: Path, checkpoint: str | None = None) -> tuple[keras.Model, ModelConfig, str]:
    """The model of a run with the weights of a checkpoint, the best unless one is named; and that checkpoint's path.

    Raises:
        DataError: no run there, no such checkpoint, or one of another model.
    """
    config = read_config(model_dir)
    path = checkpoint or best_path(model_dir / CHECKPOINTS)
    model = build_deeplabv3(config)
    restore_model(model, path)
    return model, config, path
