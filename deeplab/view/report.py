"""The page about an evaluation: scores, confusions, curves, and every image; photos lie in a folder beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deeplab.errors import DataError
from deeplab.json_fields import parse_json
from deeplab.labels import has_background
from deeplab.text import read_text
from deeplab.training.calibration import Calibration
from deeplab.training.metrics import Evaluation, Scores, per_cent
from deeplab.view import charts, page
from deeplab.view.comparison import Other, by_class, change
from deeplab.view.gallery import Gallery
from deeplab.view.template import Markup, Template

SHOWN_CONFUSIONS = 10
_LARGEST = 1e30  # number that is drawn

_TEMPLATE = Template(Path(__file__).with_name("report.html"))
_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")


def render(
    title: str,
    class_names: Sequence[str],
    evaluation: Evaluation,
    gallery: Gallery,
    records: Iterable[dict],
    facts: dict[str, object],
    trained: dict[str, str] | None = None,
    other: Other | None = None,
) -> str:
    """The page as text.

    Args:
        title: heading.
        class_names: the model's class names.
        evaluation: the evaluation to report, whose loss is the cross-entropy of all pixels alike.
        gallery: the images of this evaluation.
        records: records of `metrics.jsonl`, for the curves; may be empty.
        facts: name -> value: what was evaluated, and how.
        trained: name -> value: the size and the cost of the training run, if they are known.
        other: an earlier evaluation to compare with.
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
        "Compared with an earlier evaluation": _comparison(class_names, result, other) if other else Markup(),
        "Classes": _class_table(class_names, evaluation),
        "Boundaries": _boundaries(evaluation.viewed.get("boundary_mean_iou", {})),
        "Calibration": _calibration(evaluation.calibration),
        "Confusion matrix": _confusions(class_names, evaluation.confusion),
        "Images": _images(class_names, gallery, other),
        "What was evaluated": page.facts(facts),
    }
    return page.render(title, tiles, sections, _STYLE, _SCRIPT)


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
                class_name=_TEMPLATE.fill("class_link", index=index, class_name=page.class_name(index, class_names)),
                width=f"{100 * (iou or 0):.1f}",
                iou=_per_cent(iou),
                f1=_per_cent(result.per_class_f1[index]),
                recall=_per_cent(result.per_class_recall[index]),
                precision=_per_cent(result.per_class_precision[index]),
                share=_per_cent(truth[index] / max(truth.sum(), 1)),
            )
        )
    return _TEMPLATE.fill("classes", rows=Markup.joined(rows))


def _calibration(calibration: Calibration | None) -> Markup:
    """The curve of accuracy over confidence, if it was measured."""
    if calibration is None or calibration.expected_error is None:
        return Markup()
    curve = [(100 * confidence, right) for confidence, right, _ in calibration.curve]
    diagonal = [(confidence, confidence / 100) for confidence, _ in curve]
    chart = charts.line_chart(
        "right pixels", {"val": curve, "even": diagonal}, x_name="probability of the predicted class [%]", is_share=True
    )
    return _TEMPLATE.fill("calibration", chart=chart, error=_per_cent(calibration.expected_error))


def _boundaries(mean_iou: dict[int, float | None]) -> Markup:
    """The curve over the width of the trimap, if it was measured."""
    points = [(float(width), value) for width, value in mean_iou.items() if value is not None]
    if not points:
        return Markup()
    chart = charts.line_chart("mean IoU in a trimap", {"val": points}, x_name="trimap width in pixels", is_share=True)
    return _TEMPLATE.fill("boundaries", chart=chart)


def _confusions(class_names: Sequence[str], matrix: np.ndarray) -> Markup:
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

    parts = [_matrix(class_names, matrix)]
    if rows:
        parts.append(_TEMPLATE.fill("confusions", rows=Markup.joined(rows)))
    return Markup.joined(parts)


def _comparison(class_names: Sequence[str], result: Scores, other: Other) -> Markup:
    """A table of differences, the most improved class first; images are sorted by theirs below."""
    means = ("mean IoU", result.mean_iou, other.mean_iou)
    rows = [
        _TEMPLATE.fill(
            "compared_row",
            name=name,
            now=_per_cent(now),
            then=_per_cent(then),
            change=change(now, then),
            kind=_kind_of(change(now, then)),
        )
        for name, now, then in (means, *by_class(result, class_names, other))
    ]
    return _TEMPLATE.fill("compared", rows=Markup.joined(rows), path=other.path)


def _kind_of(difference: str) -> str:
    """The style of a difference, of which none is neither better nor worse."""
    return "" if difference in ("-", "+0.00") else "worse" if difference.startswith("-") else "better"


def _matrix(class_names: Sequence[str], matrix: np.ndarray) -> Markup:
    """The matrix as a table: shares of each row, which the page's script changes to those of columns, or to pixels."""
    rows = []
    for index, counts in enumerate(matrix.tolist()):
        total = max(sum(counts), 1)
        cells = [
            _TEMPLATE.fill(
                "matrix_cell",
                pixels=count,
                heat=round(100 * (count / total) ** 0.5),
                text=round(100 * count / total) or "",
            )
            for count in counts
        ]
        rows.append(
            _TEMPLATE.fill("matrix_row", class_name=page.class_name(index, class_names), cells=Markup.joined(cells))
        )

    # The captions of the three ways in which it can be read.
    return _TEMPLATE.fill(
        "confusion_matrix",
        heads=Markup.joined(_TEMPLATE.fill("matrix_head", name=name) for name in class_names),
        rows=Markup.joined(rows),
        rows_caption="Of the pixels of each true class (row), the share predicted as each class (column), in per cent.",
        columns_caption="Of the pixels predicted as a class (column), the share of each true class (row), in per cent.",
        pixels_caption="Pixels of each true class (row) predicted as each class (column).",
    )


def _images(class_names: Sequence[str], gallery: Gallery, other: Other | None) -> Markup:
    """Every image, which the page's script sorts, filters and enlarges."""
    kinds = "With a class chosen: its pixels missed, and false alarms of it. Else: of all classes but the background."
    if not has_background(class_names):
        kinds = "With a class chosen: its pixels missed, and false alarms of it. Else every error is a wrong class."
    return _TEMPLATE.fill(
        "gallery",
        classes=Markup.joined(
            _TEMPLATE.fill("class_option", index=index, name=name) for index, name in enumerate(class_names)
        ),
        kinds=kinds,
        before=_TEMPLATE.fill("before") if other else Markup(),
        data=gallery.data(other.images if other else {}),
    )


def _per_cent(fraction: float | None) -> str:
    return per_cent(fraction, digits=1)
