"""The HTML report of an evaluation: its numbers, its images, and that it loads nothing from outside."""

import base64
import hashlib
import html.parser
import json
import re
import urllib.parse
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab.training.metrics import Evaluation, confusion_counts, per_cent, scores
from deeplab.view import charts, report
from deeplab.view.colors import class_colors
from deeplab.view.gallery import Gallery
from deeplab.view.template import Markup, Template

NAMES = ("background", "<thing>", "absent")


def _example(seed, share_wrong):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (30, 40)).astype(np.uint8)
    truth[0] = 255
    prediction = np.where(rng.random(truth.shape) < share_wrong, 1 - np.minimum(truth, 1), np.minimum(truth, 1))
    return rng.integers(0, 256, (30, 40, 3)).astype(np.uint8), truth, prediction.astype(np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    gallery, confusion = Gallery(folder, NAMES), np.zeros((3, 3), np.int64)
    for number in range(6):
        image, truth, prediction = _example(number, share_wrong=number / 10)
        gallery.view(f"of 1/image_{number}", image, truth, prediction)
        confusion += confusion_counts(truth, prediction, 3)
    gallery.view("void", image, np.full_like(truth, 255), prediction)
    evaluation = Evaluation({"loss": 0.25}, scores(confusion), confusion, 6)
    records = [
        {"step": step, "split": split, "loss": 1 / step, "mean_iou": step / 20, "learning_rate": 0.1}
        for step in (5, 10)
        for split in ("train", "val")
    ]
    records[0]["gpu_memory_bytes"], records[2]["gpu_memory_bytes"] = 2_500_000_000, 1_000_000_000
    facts, trained = {"checkpoint": "ckpt-10"}, {"expected memory": "about 2.21 GB"}
    text = report.render("run & val", NAMES, evaluation, gallery, records, facts, trained)
    return text, evaluation, folder


class _Parser(html.parser.HTMLParser):
    """Records every element, and checks that each opened element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def parsed(page):
    parser = _Parser()
    parser.feed(page[0])
    assert parser.open == []
    return parser


def _data(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def test_nothing_is_loaded_from_outside(page, parsed):
    for tag, attributes in parsed.elements:
        assert tag not in ("iframe", "object", "embed")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    assert "//" not in "".join(item["photo"] for item in _data(page[0])["images"])


def test_the_policy_admits_the_script_of_the_page_alone(page):
    scripts = re.findall(r"<script>(.*?)</script>", page[0], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page[0], re.DOTALL)[1]
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data: 'self' file:;")


def test_expected_and_measured_memory_are_next_to_each_other(page):
    facts = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page[0])
    assert facts[:2] == [("expected memory", "about 2.21 GB"), ("peak memory of the fullest GPU", "2.50 GB")]


def test_charts_have_alternative_texts_and_name_the_best(parsed):
    curves = [attributes for tag, attributes in parsed.elements if tag == "svg"]
    assert len(curves) == 3
    assert curves[0]["aria-label"].endswith("train from 25 to 50, best 50.0 % at step 10, val from 25 to 50")
    assert "train from 0.2 to 0.1, val from 0.2 to 0.1" in curves[1]["aria-label"]


def test_cells_of_the_confusion_matrix_have_shares_and_pixels(page):
    cells = re.findall(r'<td data-pixels="(\d+)" style="--heat:(\d+)%">(\d*)</td>', page[0])
    matrix = page[1].confusion
    assert [int(pixels) for pixels, *_ in cells] == matrix.ravel().tolist()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    assert [int(text or 0) for *_, text in cells] == np.round(100 * shares).astype(int).ravel().tolist()
    assert [int(heat) for _, heat, _ in cells] == np.round(100 * shares**0.5).astype(int).ravel().tolist()


def test_every_image_is_there_with_its_scores_masks_and_photo(page):
    data = _data(page[0])
    assert data["names"] == list(NAMES)
    assert data["colors"] == class_colors(NAMES)[:3].tolist()
    assert [item["name"] for item in data["images"]] == [*(f"of 1/image_{number}" for number in range(6)), "void"]
    for number, item in enumerate(data["images"][:6]):
        _, truth, prediction = _example(number, share_wrong=number / 10)
        result = scores(confusion_counts(truth, prediction, 3))
        assert item["mean"] == pytest.approx(result.mean_iou, abs=1e-4)
        assert item["iou"] == {str(index): pytest.approx(result.per_class_iou[index], abs=1e-4) for index in (0, 1)}
        wrong = int(((truth != prediction) & (truth != 255)).sum())
        assert item["wrong"] == {"0": wrong, "1": wrong}  # a pixel of the one is missed by the other
        both = np.frombuffer(zlib.decompress(base64.b64decode(item["masks"])), np.uint8).reshape(2, 30, 40)
        np.testing.assert_array_equal(both[0], truth)
        np.testing.assert_array_equal(both[0] ^ both[1], prediction)
        with Image.open(page[2] / urllib.parse.unquote(item["photo"])) as photo:
            assert photo.size == (40, 30)
    assert data["images"][6]["mean"] is None


def test_large_images_are_reduced(tmp_path):
    gallery = Gallery(tmp_path, NAMES)
    gallery.view("a", np.zeros((1000, 500, 3), np.uint8), *np.zeros((2, 1000, 500), np.uint8))
    (item,) = json.loads(gallery.data({}))["images"]
    assert (item["size"], item["grid"]) == ([500, 1000], [160, 320])
    with Image.open(tmp_path / "report_images" / "a.jpg") as photo:
        assert photo.size == (320, 640)


def test_a_name_cannot_end_the_element_of_the_data(tmp_path):
    gallery = Gallery(tmp_path, ("</script><b>", "b"))
    text = gallery.data({})
    assert "<" not in text
    assert json.loads(text)["names"][0] == "</script><b>"


def test_numbers_are_those_of_the_evaluation(page, parsed):
    text, result = "|".join(parsed.text), page[1].scores
    assert f"{100 * result.mean_iou:.1f} %|mean IoU" in text
    assert f"{100 * result.pixel_accuracy:.1f} %|pixel accuracy" in text
    assert "0.2500|cross-entropy" in text
    matrix = page[1].confusion
    iou, recall = result.per_class_iou[1], matrix[1, 1] / matrix[1].sum()
    precision, share = matrix[1, 1] / matrix[:, 1].sum(), matrix[1].sum() / matrix.sum()
    f1 = 2 * precision * recall / (precision + recall)
    row = "|".join(f"{100 * value:.1f} %" for value in (iou, f1, recall, precision, share))
    assert f"<thing>|{row}" in text
    assert "absent|-|-|-|-|0.0 %" in text


def test_the_later_of_two_records_of_a_step_counts(tmp_path):
    lines = [
        {"step": 2, "split": "val", "loss": 9},
        {"step": 1, "split": "val"},
        {"step": 2, "split": "val", "loss": 3},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = report.read_records(tmp_path / "metrics.jsonl")
    assert [(record["step"], record.get("loss")) for record in records] == [(1, None), (2, 3)]
    assert report.read_records(tmp_path / "none.jsonl") == []
    assert charts.training_curves([]) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.5, 1.0]), (0.13, 0.52, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), (3.0, 3.0, [3, 4]), (0, 0, [0, 0.5])],
)
def test_ticks_are_round_and_cover_the_values(low, high, expected):
    np.testing.assert_allclose(charts.nice_ticks(low, high), expected, atol=1e-12)


def test_loss_has_one_meaning_and_a_name():
    """The tile is the cross-entropy; a chart of the loss that was trained says what it adds up."""
    both = {"step": 1, "split": "val", "loss": 0.4247, "cross_entropy": 0.1745, "dice": 0.2502}
    titles = re.findall('font-weight="bold">(.*?)<', charts.training_curves([both]))
    assert titles == ["loss: cross-entropy + Dice", "cross-entropy alone"]
    alone = charts.training_curves([{"step": 1, "split": "val", "loss": 0.1745}])
    assert re.findall('font-weight="bold">(.*?)<', alone) == ["loss"]
    assert "cross-entropy alone, step 1 to 1: val from 0.1745 to 0.1745" in charts.training_curves([both])


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(100, 4500, [2000, 4000]), (12, 98, [20, 40, 60, 80]), (5, 10, [6, 8, 10]), (5, 5, [5])],
)
def test_the_axis_of_steps_has_round_ticks(first, last, expected):
    assert charts._ticks_between(first, last) == expected


def test_lines_are_drawn_at_their_values():
    svg = charts.line_chart("loss", {"train": [(0, 0.0), (50, 1.0), (100, 0.5)]})
    points = [tuple(map(float, point.split(","))) for point in re.search(r'points="([^"]+)"', svg).group(1).split()]
    left, middle, right = points
    assert middle[0] == pytest.approx((left[0] + right[0]) / 2)
    assert right[1] == pytest.approx((left[1] + middle[1]) / 2)
    assert left[1] > middle[1]  # downwards


def test_a_template_escapes_text_but_not_markup(tmp_path):
    (tmp_path / "page.html").write_text(
        "What it is.\n\n<!-- block item -->\n<li>\n  <b>$name</b>\n</li>\n<!-- block list -->\n<ul>$items</ul>\n"
    )
    template = Template(tmp_path / "page.html")
    items = [template.fill("item", name=name) for name in ("<a> & b", Markup("<i>c</i>"))]
    page = template.fill("list", items=Markup.joined(items))
    assert page == "<ul><li><b>&lt;a&gt; &amp; b</b></li><li><b><i>c</i></b></li></ul>"
    with pytest.raises(KeyError):
        template.fill("item")


def test_per_cent():
    assert [per_cent(value) for value in (0.12345, 1, None)] == ["12.35 %", "100.00 %", "-"]
    assert per_cent(0.12345, digits=1) == "12.3 %"
