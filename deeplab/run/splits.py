"""Which data a run was trained and scored on, so that scores of different data are never compared."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from deeplab.errors import DataError
from deeplab.files import write_text
from deeplab.json_fields import from_fields, read_json
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")

_FILE = "splits.json"


@dataclass(frozen=True)
class SplitRecord:
    """A split as a run saw it: its name, the digest of its contents, and the number of its examples."""

    name: str
    digest: str
    num_examples: int


def read_splits_of_run(model_dir: Path) -> dict[str, SplitRecord]:
    """`train` and `val` -> the split of the newest start; empty for runs that did not record them.

    Raises:
        DataError: the file is damaged.
    """
    path = model_dir / _FILE
    if not path.exists():
        return {}
    try:
        records = read_json(path)
        return {role: from_fields(SplitRecord, fields) for role, fields in records.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete it") from error


def write_splits_of_run(model_dir: Path, splits: dict[str, SplitRecord]) -> None:
    """Records the splits of this start."""
    fields = {role: asdict(split) for role, split in splits.items()}
    write_text(model_dir / _FILE, json.dumps(fields, indent=1) + "\n")


def forget_scores_of_other_data(state: TrainState, before: dict[str, SplitRecord], now: dict[str, SplitRecord]) -> bool:
    """Logs which splits changed; if the validation split did, best score, patience and plateau are reset.

    Returns:
        Whether the state changed, so that it must be saved before the new splits are recorded.
    """
    for role, split in now.items():
        old = before.get(role)
        if old is not None and old.digest != split.digest:
            logger.warning(
                "%s: the split %s has changed since the last start: %s, now %s",
                "validation" if role == "val" else "training",
                split.name,
                _in_words(old),
                _in_words(split),
            )
    old = before.get("val")
    new = now.get("val")
    if old is None or new is None or old.digest == new.digest or float(state.best_mean_iou) < 0:
        return False
    logger.warning(
        "best mIoU %.2f %% is forgotten, and so are patience and plateau: it is of the other images. The best "
        "checkpoint stays what it is until the next evaluation",
        100 * float(state.best_mean_iou),
    )
    state.forget_scores()
    return True


def _in_words(split: SplitRecord) -> str:
    return f"{split.num_examples:,} images ({split.digest[:8]})"
