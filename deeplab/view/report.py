"""One HTML file about an evaluation: scores, confusions, best and worst images, curves. It asks for nothing else."""

import base64
import heapq
import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab import charts, visualize
from deeplab.data.voc import IGNORE_LABEL, palette
from deeplab.errors import DataError
from deeplab.training.evaluation import Evaluation
from deeplab.training.metrics import confusion_counts, scores

SHOWN_IMAGES = 4
SHOWN_CONFUSIONS = 10
_LARGEST_SIDE = 480

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0 auto; max-width: 68rem;
  padding: 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
p, dd { overflow-wrap: anywhere; } .note { color: #555; margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; margin: 1.2rem 0; list-style: none; }
.tiles li { flex: 1 1 8rem; border: 1px solid #ccc; border-radius: .5rem; padding: .5rem .8rem; }
.tiles b { display: block; font-size: 1.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; } tbody th { font-weight: normal; }
.bar { width: 35%; min-width: 6rem; } .bar div { height: .8rem; background: #2166ac; }
.swatch { display: inline-block; width: .8rem; height: .8rem; border: 1px solid #777; margin-right: .4rem;
  vertical-align: -.05rem; }
figure { margin: 0 0 1.4rem; } figcaption { margin-bottom: .3rem; overflow-wrap: anywhere; }
figcaption span { white-space: nowrap; } thead th { white-space: normal; }
.row { display: flex; flex-wrap: wrap; gap: .4rem; } .row div { flex: 1 1 10rem; max-width: 22rem; }
.row img { width: 100%; height: auto; display: block; } .row span { font-size: .85rem; color: #555; }
.matrix { min-width: 36rem; max-width: 100%; height: auto; } .charts { display: flex; flex-wrap: wrap; gap: 1rem; }
.charts svg { flex: 1 1 20rem; max-width: 32rem; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dd { margin: 0; }
"""


@dataclass(frozen=True)
class ScoredImage:
    """An image, its masks (uint8 [height, width]) and the mean IoU over the classes in them."""

    mean_iou: float
    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class ImageRanking:
    """Keeps the best and the worst of the images that it is shown; one of void alone counts for neither."""

    def __init__(self, num_classes: int, count: int = SHOWN_IMAGES) -> None:
        self._num_classes, self._count = num_classes, count
        self._best: list[ScoredImage] = []
        self._worst: list[ScoredImage] = []

    def add(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """One image (uint8 RGB [height, width, 3]) and its masks (uint8 [height, width])."""
        mean_iou = scores(confusion_counts(truth, prediction, self._num_classes, IGNORE_LABEL)).mean_iou
        if mean_iou is not None:
            shown = ScoredImage(mean_iou, name, image, truth, prediction)
            self._best = heapq.nlargest(self._count, [*self._best, shown], _by_score)
            self._worst = heapq.nsmallest(self._count, [*self._worst, shown], _by_score)

    @property
    def best(self) -> list[ScoredImage]:
        """The best first."""
        return self._best

    @property
    def worst(self) -> list[ScoredImage]:
        """The worst first; none that is among the best."""
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
) -> str:
    """The page as text.

    Args:
        title: heading.
        class_names: of the model.
        evaluation: what is reported.
        ranking: of the evaluated images.
        records: of `metrics.jsonl`, for the curves; may be empty.
        facts: name -> value: what was evaluated, and how.
    """
    result = evaluation.scores
    tiles = {
        "mean IoU": _per_cent(result.mean_iou),
        "pixel accuracy": _per_cent(result.pixel_accuracy),
        "mean accuracy": _per_cent(result.mean_accuracy),
        "loss": f"{evaluation.losses['loss']:.4f}",
        "images": f"{evaluation.num_images:,}",
    }
    sections = {
        "Training": charts.training_curves(records),
        "Classes": _class_table(class_names, evaluation),
        "Confusion matrix": _confusions(class_names, evaluation.confusion),
        "Worst images": "".join(_figure(item, class_names) for item in ranking.worst),
        "Best images": "".join(_figure(item, class_names) for item in ranking.best),
        "What was evaluated": _facts(facts),
    }
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections.items() if content)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing but what stands in the file may be loaded.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>'
        f"<main><h1>{html.escape(title)}</h1>"
        f'<ul class="tiles">{"".join(f"<li><b>{value}</b>{name}</li>" for name, value in tiles.items())}</ul>'
        f"{body}</main></body></html>\n"
    )


def read_records(path: Path) -> list[dict]:
    """The records of a `metrics.jsonl`; of two for one step and split the later counts. Empty without a file.

    Raises:
        DataError: a line that is no record.
    """
    newest = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            record = json.loads(line)
            newest[record["split"], record["step"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: line {number} is no record of a run ({error}); take it out") from error
    return [newest[key] for key in sorted(newest)]


def _class_table(class_names: Sequence[str], evaluation: Evaluation) -> str:
    matrix = evaluation.confusion
    truth, predicted, total = matrix.sum(1), matrix.sum(0), max(matrix.sum(), 1)
    rows = []
    for index, (name, iou) in enumerate(zip(class_names, evaluation.scores.per_class_iou, strict=True)):
        hits = matrix[index, index]
        recall = hits / truth[index] if truth[index] else None
        precision = hits / predicted[index] if predicted[index] else None
        bar = f'<div style="width:{100 * (iou or 0):.1f}%"></div>'
        cells = "".join(f"<td>{_per_cent(value)}</td>" for value in (iou, recall, precision, truth[index] / total))
        label = f"{_swatch(index)}{html.escape(name)}"
        rows.append(f'<tr><th scope="row">{label}</th><td class="bar" aria-hidden="true">{bar}</td>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("IoU", "recall", "precision", "share of pixels"))
    note = "A class that is neither in the masks nor predicted has no IoU and is left out of the mean."
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">class</th><td></td>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{note}</p>'
    )


def _confusions(class_names: Sequence[str], matrix: np.ndarray) -> str:
    picture = _image(
        visualize.confusion_picture(matrix, class_names),
        "Confusion matrix: of the pixels of each true class (rows), the share predicted as each class (columns), in "
        "per cent. The largest confusions are listed below.",
        "PNG",
        "matrix",
    )
    totals = matrix.sum(1)
    wrong = matrix - np.diag(np.diag(matrix))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    rows = []
    for true, predicted in zip(*np.unravel_index(largest, matrix.shape), strict=True):
        if wrong[true, predicted]:
            share = _per_cent(wrong[true, predicted] / totals[true])
            names = (_swatch(index) + html.escape(class_names[index]) for index in (true, predicted))
            rows.append(
                "<tr>" + "".join(f'<td class="text">{name}</td>' for name in names) + f"<td>{share}</td>"
                f"<td>{wrong[true, predicted]:,}</td></tr>"
            )
    table = (
        '<h3>Largest confusions</h3><div class="scroll"><table><thead><tr><th scope="col">true</th>'
        '<th scope="col" class="text">predicted as</th><th scope="col">of the true class</th>'
        f'<th scope="col">pixels</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    return f'<div class="scroll">{picture}</div>{table if rows else ""}'


def _figure(item: ScoredImage, class_names: Sequence[str]) -> str:
    pictures = {
        "image": Image.fromarray(item.image),
        "truth": visualize.overlay(item.image, np.where(item.truth == IGNORE_LABEL, 0, item.truth)),
        "prediction": visualize.overlay(item.image, item.prediction),
        "errors (red)": visualize.error_map(item.image, item.truth, item.prediction),
    }
    texts = {
        "image": f"The image {item.name}",
        "truth": f"Its true classes: {_shares(item.truth, class_names)}",
        "prediction": f"The predicted classes: {_shares(item.prediction, class_names)}",
        "errors (red)": f"Wrong pixels: {_per_cent(_share_wrong(item))}",
    }
    cells = "".join(
        f"<div>{_image(picture, texts[name], 'JPEG')}<span>{name}</span></div>" for name, picture in pictures.items()
    )
    found = np.setdiff1d(np.union1d(item.truth, item.prediction), [IGNORE_LABEL])
    legend = " ".join(f"<span>{_swatch(index)}{html.escape(class_names[index])}</span>" for index in found)
    caption = f"<b>{html.escape(item.name)}</b>: mean IoU {_per_cent(item.mean_iou)} &ensp; {legend}"
    return f'<figure><figcaption>{caption}</figcaption><div class="row">{cells}</div></figure>'


def _share_wrong(item: ScoredImage) -> float:
    valid = item.truth != IGNORE_LABEL
    return float((item.truth != item.prediction)[valid].mean())


def _shares(mask: np.ndarray, class_names: Sequence[str]) -> str:
    found = visualize.class_shares(mask)
    return ", ".join(f"{class_names[index]} {_per_cent(share)}" for index, share in found)


def _facts(facts: dict[str, object]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>"


def _swatch(index: int) -> str:
    red, green, blue = palette()[index]
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def _image(picture: Image.Image, text: str, file_format: str, css_class: str = "") -> str:
    if file_format == "JPEG":
        picture = picture.convert("RGB")
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, file_format, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    source = f"data:image/{file_format.lower()};base64,{data}"
    return f'<img class="{css_class}" {size} alt="{html.escape(text)}" src="{source}">'


def _per_cent(fraction: float | None) -> str:
    return f"{100 * fraction:.1f} %" if fraction is not None else "-"
