"""What a run leaves to be read: TensorBoard scalars and `metrics.jsonl`, both from the same records."""

import json
from pathlib import Path

import tensorflow as tf

from deeplab.files import write_text


class RunLog:
    """Appends to `metrics.jsonl` and to one TensorBoard folder per split, below a run's folder."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._file = (model_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def write_file(self, name: str, record: dict) -> Path:
        """A JSON file of its own in the run's folder; returns its path."""
        path = self._model_dir / name
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    def write(self, step: int, split: str, record: dict) -> None:
        """One JSON line, and a scalar for each number in it; a nested dict's numbers as `name/key`."""
        self._file.write(json.dumps({"step": step, "split": split, **record}) + "\n")
        self._file.flush()
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(str(self._model_dir / split))
        with self._writers[split].as_default(step):
            for name, value in record.items():
                for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if number is not None:
                        tf.summary.scalar(f"{name}/{key}" if key else name, number)
        self._writers[split].flush()
