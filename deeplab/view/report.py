"""One HTML file about an evaluation: scores, confusions, best and worst images, curves. It loads no other file."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.errors import DataError
from deeplab.json_fields import parse_json
from deeplab.labels import VOID_LABEL, foreground
from deeplab.text import read_text
from deeplab.training.metrics import Evaluation, Scores, confusion_counts, per_cent, scores
from deeplab.view import charts, page, pictures
from deeplab.view.template import Markup, Template

SHOWN_IMAGES = 4
SHOWN_CONFUSIONS = 10
_LARGEST = 1e30  # number that is drawn

_TEMPLATE = Template(Path(__file__).with_name("report.html"))


@dataclass(frozen=True)
class ScoredImage:
    """An image, its masks (uint8 [height, width]) and the mean IoU over the classes in them."""

    mean_iou: float
    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class ImageRanking:
    """A viewer that keeps the best and the worst images; an image with only void counts as neither."""

    def __init__(self, num_classes: int, count: int = SHOWN_IMAGES) -> None:
        self._num_classes = num_classes
        self._count = count
        self._best: list[ScoredImage] = []
        self._worst: list[ScoredImage] = []

    @property
    def wants_more(self) -> bool:
        """Every example counts."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one image (uint8 RGB [height, width, 3]) and its masks (uint8 [height, width])."""
        mean_iou = scores(confusion_counts(truth, prediction, self._num_classes)).mean_iou
        if mean_iou is not None:
            shown = ScoredImage(mean_iou, name, image, truth, prediction)
            self._best = heapq.nlargest(self._count, [*self._best, shown], _by_score)
            self._worst = heapq.nsmallest(self._count, [*self._worst, shown], _by_score)

    def results(self) -> dict[str, object]:
        """Nothing: the report shows the images."""
        return {}

    @property
    def best(self) -> list[ScoredImage]:
        """The best first."""
        return self._best

    @property
    def worst(self) -> list[ScoredImage]:
        """The worst first, without those that are among the best."""
        best = {item.name for item in self._best}
        return [item for item in self._worst if item.name not in best]


def _by_score(item: ScoredImage) -> tuple[float, str]:
    return item.mean_iou, item.name


def render(
    title: str,
    class_names: Sequence[str],
    evaluation: Evaluation,
    ranking: ImageRanking,
    records: Iterable[dict],
    facts: dict[str, object],
    trained: dict[str, str] | None = None,
) -> str:
    """The page as text.

    Args:
        title: heading.
        class_names: the model's class names.
        evaluation: the evaluation to report, whose loss is the cross-entropy of all pixels alike.
        ranking: the best and the worst images of this evaluation.
        records: records of `metrics.jsonl`, for the curves; may be empty.
        facts: name -> value: what was evaluated, and how.
        trained: name -> value: the size and the cost of the training run, if they are known.
    """
    result = evaluation.scores
    records = list(records)
    tiles = {
        "mean IoU": _per_cent(result.mean_iou),
        "pixel accuracy": _per_cent(result.pixel_accuracy),
        "mean accuracy": _per_cent(result.mean_accuracy),
        "frequency-weighted IoU": _per_cent(result.frequency_weighted_iou),
        **_of_the_foreground(result),
        "cross-entropy": f"{evaluation.losses['loss']:.4f}",
        "images": f"{evaluation.num_images:,}",
    }
    sections = {
        "Training": Markup.joined([charts.training_curves(records), _trained(trained or {}, records)]),
        "Classes": _class_table(class_names, evaluation),
        "Boundaries": _boundaries(evaluation.viewed.get("boundary_mean_iou", {})),
        "Confusion matrix": _confusions(class_names, evaluation.confusion),
        "Worst images": Markup.joined(_example(item, class_names) for item in ranking.worst),
        "Best images": Markup.joined(_example(item, class_names) for item in ranking.best),
        "What was evaluated": page.facts(facts),
    }
    return page.render(title, tiles, sections)


def read_records(path: Path) -> list[dict]:
    """The records of a `metrics.jsonl`; of two for the same step and split, the later counts. Empty without a file.

    Raises:
        DataError: a line that is not a record.
    """
    newest = {}
    for number, line in enumerate(read_text(path, "records of a run").splitlines() if path.exists() else [], 1):
        try:
            record = parse_json(line)
            step = record["step"] if isinstance(record, dict) else None
            if type(step) is not int or not 0 <= step < 1 << 63 or type(record["split"]) is not str:
                raise ValueError("no step or no split")
            numbers = {name: value for name, value in record.items() if _is_finite(value)}
            newest[record["split"], step] = numbers | {"split": record["split"]}
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: line {number} is not a record of a run ({error}); delete it") from error
    return [newest[key] for key in sorted(newest)]


def _is_finite(value: object) -> bool:
    """Whether a field is a number that can be drawn."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _trained(trained: dict[str, str], records: Sequence[dict]) -> Markup:
    """The run's description, and its peak memory where the records have it."""
    peaks = {}
    for field, owner in (("gpu_memory_bytes", "the fullest GPU"), ("host_memory_bytes", "the process")):
        if peak := max((record.get(field, 0) for record in records), default=0):
            peaks[f"peak memory of {owner}"] = f"{peak / 1e9:.2f} GB"
    return page.facts(trained | peaks) if trained or peaks else Markup()


def _of_the_foreground(result: Scores) -> dict[str, str]:
    """The tile of the foreground's mean IoU; none unless class 0 is a background."""
    mean_iou = result.foreground_mean_iou
    return {} if mean_iou is None else {"mean IoU of the foreground": _per_cent(mean_iou)}


def _class_table(class_names: Sequence[str], evaluation: Evaluation) -> Markup:
    result = evaluation.scores
    truth = evaluation.confusion.sum(1)
    rows = []
    for index, iou in enumerate(result.per_class_iou):
        rows.append(
            _TEMPLATE.fill(
                "class_row",
                class_name=page.class_name(index, class_names),
                width=f"{100 * (iou or 0):.1f}",
                iou=_per_cent(iou),
                f1=_per_cent(result.per_class_f1[index]),
                recall=_per_cent(result.per_class_recall[index]),
                precision=_per_cent(result.per_class_precision[index]),
                share=_per_cent(truth[index] / max(truth.sum(), 1)),
            )
        )
    return _TEMPLATE.fill("classes", rows=Markup.joined(rows))


def _boundaries(mean_iou: dict[int, float | None]) -> Markup:
    """The curve over the width of the trimap, if it was measured."""
    points = [(float(width), value) for width, value in mean_iou.items() if value is not None]
    if not points:
        return Markup()
    chart = charts.line_chart("mean IoU in a trimap", {"val": points}, x_name="trimap width in pixels")
    return _TEMPLATE.fill("boundaries", chart=chart)


def _confusions(class_names: Sequence[str], matrix: np.ndarray) -> Markup:
    picture = page.image(
        pictures.confusion_picture(matrix, class_names),
        "Confusion matrix: of the pixels of each true class (rows), the share predicted as each class (columns), in "
        "per cent. The largest confusions are listed below.",
        "PNG",
        "matrix",
    )

    # The largest confusions, as a list.
    totals = matrix.sum(1)
    wrong = matrix - np.diag(np.diag(matrix))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    rows = [
        _TEMPLATE.fill(
            "confusion_row",
            true=page.class_name(true, class_names),
            predicted=page.class_name(predicted, class_names),
            share=_per_cent(wrong[true, predicted] / totals[true]),
            pixels=f"{wrong[true, predicted]:,}",
        )
        for true, predicted in zip(*np.unravel_index(largest, matrix.shape), strict=True)
        if wrong[true, predicted]
    ]

    parts = [_TEMPLATE.fill("confusion_matrix", picture=picture)]
    if rows:
        parts.append(_TEMPLATE.fill("confusions", rows=Markup.joined(rows)))
    return Markup.joined(parts)


def _example(item: ScoredImage, class_names: Sequence[str]) -> Markup:
    shown = {
        "image": Image.fromarray(item.image),
        "truth": pictures.overlay(item.image, item.truth, class_names),
        "prediction": pictures.overlay(item.image, item.prediction, class_names),
        "errors (red)": pictures.error_map(item.image, item.truth, item.prediction),
    }
    texts = {
        "image": f"The image {item.name}",
        "truth": f"Its true classes: {_shares(item.truth, class_names)}",
        "prediction": f"The predicted classes: {_shares(item.prediction, class_names)}",
        "errors (red)": f"Wrong pixels: {_per_cent(_share_wrong(item))}",
    }
    found = np.intersect1d(np.union1d(item.truth, item.prediction), foreground(class_names))
    return _TEMPLATE.fill(
        "example",
        name=item.name,
        mean_iou=_per_cent(item.mean_iou),
        legend=page.legend(found, class_names),
        pictures=Markup.joined(
            _TEMPLATE.fill("example_picture", name=name, image=page.image(picture, texts[name], "JPEG"))
            for name, picture in shown.items()
        ),
    )


def _share_wrong(item: ScoredImage) -> float:
    valid = item.truth != VOID_LABEL
    return float((item.truth != item.prediction)[valid].mean())


def _shares(mask: np.ndarray, class_names: Sequence[str]) -> str:
    found = pictures.class_shares(mask)
    return ", ".join(f"{class_names[index]} {_per_cent(share)}" for index, share in found)


def _per_cent(fraction: float | None) -> str:
    return per_cent(fraction, digits=1)
