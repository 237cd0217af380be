"""Two evaluations beside each other: eval.py --compare."""

import json
import re

import numpy as np
import pytest

from deeplab.errors import DataError, UsageError
from deeplab.training.metrics import Evaluation, confusion_counts, scores
from deeplab.view import comparison, report
from deeplab.view.comparison import Other
from deeplab.view.gallery import Gallery
from deeplab.view.image_scores import ImageScores

NAMES = ("background", "cat", "dog")
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8)
WORSE = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.uint8)


def _evaluate(folder, **predictions):
    """Writes what eval.py writes about predictions for `TRUTH`; returns scores, image scores and confusion matrix."""
    table = ImageScores(NAMES)
    matrix = np.zeros((3, 3), np.int64)
    for name, prediction in predictions.items():
        table.view(name, np.zeros((2, 4, 3), np.uint8), TRUTH, prediction)
        matrix += confusion_counts(TRUTH, prediction, 3)
    result = scores(matrix, NAMES)
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(result.to_json(NAMES)))
    (folder / "per_image.csv").write_text(table.as_csv(list(predictions)))
    return result, table, matrix


@pytest.fixture
def now_and_then(tmp_path):
    """Now image `a` is right and `b` wrong in two of eight pixels; then the other way round, and `c` was wrong."""
    now = _evaluate(tmp_path / "now", a=TRUTH, b=WORSE, c=TRUTH)
    _evaluate(tmp_path / "then", a=WORSE, b=TRUTH, c=WORSE)
    return now, Other.read(tmp_path / "then" / "metrics.json", NAMES, ["a", "b", "c"])


def test_differences_are_those_by_hand(now_and_then):
    (result, table, _), other = now_and_then
    # In all 24 pixels, now: background 10 of 12, cat 12 of 14; then: 8 of 12, 12 of 16. An image: (1/2 + 4/6) / 2.
    assert comparison.as_text(result, NAMES, table.mean_ious, other).splitlines()[1:] == [
        f"{'class':10}  {'now':>8}  {'then':>8}  difference",
        "background   83.33 %   66.67 %      +16.67",
        "cat          85.71 %   75.00 %      +10.71",
        "dog                -         -           -",
        "mean IoU     84.52 %   70.83 %      +13.69",
        "most worsened: b -41.67",
        "most improved: c +41.67, a +41.67",
    ]


def test_the_report_shows_and_sorts_by_them(now_and_then, tmp_path):
    (result, _, matrix), other = now_and_then
    gallery = Gallery(tmp_path / "report", NAMES)
    for name, prediction in {"a": TRUTH, "b": WORSE}.items():
        gallery.view(name, np.zeros((2, 4, 3), np.uint8), TRUTH, prediction)
    page = report.render("A", NAMES, Evaluation({"loss": 1.0}, result, matrix, 2), gallery, [], {}, other=other)
    section = re.search(r"<h2>Compared with.*?</section>", page, re.DOTALL)[0]
    assert '<th scope="row">cat</th><td>85.7 %</td><td>75.0 %</td><td class="better">+10.71</td>' in section
    assert '<option value="worsened">' in page
    images = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["images"]
    assert [(item["mean"], item["before"]) for item in images] == [(1.0, 0.5833), (0.5833, 1.0)]


def test_only_like_is_compared_with_like(tmp_path):
    _evaluate(tmp_path / "then", a=TRUTH)
    path = tmp_path / "then" / "metrics.json"
    with pytest.raises(UsageError, match="'bird' is a class of only one of the two"):
        Other.read(path, ("background", "cat", "bird"), ["a"])
    with pytest.raises(UsageError, match="image 'b' was scored by only one of the two"):
        Other.read(path, NAMES, ["a", "b"])
    (tmp_path / "then" / "per_image.csv").write_text("name,mean_iou\na,much\n")
    with pytest.raises(DataError, match=r"per_image\.csv: not a table of eval\.py"):
        Other.read(path, NAMES, ["a"])
    for text in ('{"mean_iou": 7, "per_class_iou": {}}', "[]", "{"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"not a metrics\.json of eval\.py"):
            Other.read(path, NAMES, ["a"])
    with pytest.raises(DataError, match="no such file"):
        Other.read(tmp_path / "none.json", NAMES, ["a"])
