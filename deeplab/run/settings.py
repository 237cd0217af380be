"""The flags of a run's folder and its checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from deeplab.model.settings import OUTPUT_STRIDES
from deeplab.settings import setting


@dataclass(frozen=True)
class RunSettings:
    """Run."""

    model_dir: Path | None = setting(
        None, "Folder of the run: checkpoints, metrics.jsonl, TensorBoard events.", hyperparameter=False
    )


@dataclass(frozen=True)
class LoadSettings:
    """Trained network."""

    output_stride: int | None = setting(
        None, "Input size over feature size. Default: as in training.", choices=OUTPUT_STRIDES
    )


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoints."""

    keep_checkpoints: int = setting(
        3, "Latest checkpoints to keep; the best is kept separately.", lower=1, hyperparameter=False
    )
