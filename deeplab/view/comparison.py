"""Two evaluations of the same images beside each other: differences by class and by image."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab.errors import DataError, UsageError
from deeplab.json_fields import parse_json
from deeplab.text import read_text
from deeplab.training.metrics import Scores, per_cent
from deeplab.view.image_scores import PER_IMAGE

Score = float | None

_SHOWN_IMAGES = 5


@dataclass(frozen=True)
class Other:
    """An earlier evaluation: its file, its mean IoU, and the IoU of each class and image by name; all fractions."""

    path: Path
    mean_iou: Score
    classes: Mapping[str, Score]
    images: Mapping[str, Score]

    @classmethod
    def read(cls, path: Path, class_names: Sequence[str], names: Sequence[str]) -> "Other":
        """Reads a `metrics.json` and the `per_image.csv` beside it.

        Args:
            path: the `metrics.json`.
            class_names: the model's.
            names: the images of the split.

        Raises:
            DataError: missing, or not what `eval.py` writes.
            UsageError: of other classes or images, so that scores cannot be compared.
        """
        try:
            record = parse_json(read_text(path, "metrics.json of eval.py"))
            mean = _score(record["mean_iou"])
            classes = {name: _score(value) for name, value in record["per_class_iou"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a metrics.json of eval.py ({error})") from error
        table = path.with_name(PER_IMAGE)
        try:
            rows = csv.DictReader(read_text(table, "the scores of each image").splitlines())
            images = {row["name"]: _score(float(row["mean_iou"]) if row["mean_iou"] else None) for row in rows}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{table}: not a table of eval.py ({error})") from error

        # Like with like.
        if set(classes) != set(class_names):
            differing = sorted(set(classes) ^ set(class_names))[0]
            raise UsageError(f"--compare={path}: {differing!r} is a class of only one of the two")
        if set(images) != set(names):
            differing = sorted(set(images) ^ set(names))[0]
            raise UsageError(f"--compare={path}: image {differing!r} was scored by only one of the two")
        return cls(path, mean, classes, images)


def _score(value: object) -> Score:
    if value is None or (isinstance(value, int | float) and 0 <= value <= 1):
        return value
    raise ValueError(f"{value!r} is not a fraction")


def by_class(result: Scores, class_names: Sequence[str], other: Other) -> list[tuple[str, Score, Score]]:
    """(name, IoU now, IoU then) of each class, the most improved first; last, those that one of the two lacks."""
    rows = [(name, iou, other.classes[name]) for name, iou in zip(class_names, result.per_class_iou, strict=True)]
    return sorted(rows, key=lambda row: -_difference(*row[1:]))


def as_text(result: Scores, class_names: Sequence[str], images: Mapping[str, Score], other: Other) -> str:
    """A table of differences, and the images whose mean IoU changed most; `images` has the mean IoU of each now."""
    rows = [*by_class(result, class_names, other), ("mean IoU", result.mean_iou, other.mean_iou)]
    width = max(len(name) for name, *_ in rows)
    lines = [f"compared with {other.path}", f"{'class':{width}}  {'now':>8}  {'then':>8}  difference"]
    for name, now, then in rows:
        lines.append(f"{name:{width}}  {per_cent(now):>8}  {per_cent(then):>8}  {change(now, then):>10}")
    changes = sorted(
        (now - then, name)
        for name, now in images.items()
        if now is not None and (then := other.images[name]) is not None and now != then
    )
    for what, chosen in (("most worsened", changes), ("most improved", changes[::-1])):
        some = [(amount, name) for amount, name in chosen[:_SHOWN_IMAGES] if (amount < 0) == (what == "most worsened")]
        lines.append(f"{what}: " + (", ".join(f"{name} {100 * amount:+.2f}" for amount, name in some) or "none"))
    return "\n".join(lines)


def change(now: Score, then: Score) -> str:
    """The difference in points of per cent, with its sign."""
    return "-" if now is None or then is None else f"{round(100 * (now - then), 2) + 0.0:+.2f}"  # -0.0 + 0.0 is 0.0


def _difference(now: Score, then: Score) -> float:
    return -2.0 if now is None or then is None else now - then
