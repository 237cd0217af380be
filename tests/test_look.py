"""The page about a data set: what it finds, what it shows, and that it loads nothing from outside itself."""

import html.parser
import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from deeplab import settings
from deeplab.commands import look
from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import Crop, first_crops
from deeplab.data.shards.split import Split
from deeplab.errors import UsageError
from deeplab.look import SETTINGS, check_flags
from deeplab.view import dataset_page
from deeplab.view.survey import FEW_IMAGES, SMALL_AREA, Survey, fit

NAMES = ("background", "cat", "<dog>", "bird")


def _survey():
    """Six training images of growing size with much cat, and one each with a little dog, void, and nothing."""
    survey, rng = Survey(NAMES), np.random.default_rng(0)
    for number in range(6):
        mask = np.zeros((40 + number, 60), np.uint8)
        mask[:20] = 1
        if number == 2:
            mask[30:34, :5] = 2
        if number == 3:
            mask[5:] = 255
        if number == 4:
            mask[:] = 0
        survey.add("train", f"image_{number}", rng.integers(0, 256, (*mask.shape, 3), np.uint8), mask)
    return survey, rng


def test_numbers_of_a_split():
    survey, _ = _survey()
    train = survey.splits["train"]
    assert train.sizes == [(60, 40 + number) for number in range(6)]
    assert train.pixels[:4].tolist() == [
        sum(60 * (40 + n) for n in range(6)) - train.pixels[1:].sum(),
        *train.pixels[1:4],
    ]
    assert train.images_with[[0, 1, 2, 3, 255]].tolist() == [5, 5, 1, 0, 1]


def test_what_is_odd():
    survey, rng = _survey()
    image = rng.integers(0, 256, (30, 30, 3), np.uint8)
    survey.add("train", "a", image, np.ones((30, 30), np.uint8))
    survey.add("train", "b", image, np.zeros((30, 30), np.uint8))
    survey.add("val", "c", image, np.ones((30, 30), np.uint8))
    assert FEW_IMAGES > 1
    assert SMALL_AREA > 20
    assert survey.odd() == [
        "train has no pixel of bird.",
        "val has no pixel of background, <dog>, bird.",
        "Classes in fewer than 5 images of train: <dog> (1).",
        "Images with fewer than 256 pixels of a class, one cell of the network's output: <dog> (1).",
        "More than half void: 1 image: train/image_3.",
        "Only background: 2 images: train/image_4, train/b.",
        "1 image in more than one split, which makes scores too good: train/a = train/b = val/c.",
        "1 image with different masks: train/a = train/b = val/c.",
    ]


def test_examples_are_chosen_for_what_they_show():
    survey, _ = _survey()
    reasons = {shown.name: shown.reasons for shown in survey.examples()}
    assert {"little <dog>"} <= set(reasons["image_2"])
    assert {"largest"} <= set(reasons["image_5"])
    assert {"smallest"} <= set(reasons["image_0"])
    assert {"most void"} <= set(reasons["image_3"])
    assert {"most <dog>"} <= set(reasons["image_2"])
    assert sum("random" in each for each in reasons.values()) == 4


def _split_of(survey, split, shares, count=50):
    """Images of 20x20 in which `shares` of the rows, plus or minus a row, are class 1 and the rest class 0."""
    rng = np.random.default_rng(len(split))
    for number in range(count):
        mask = np.zeros((20, 20), np.uint8)
        mask[: round(20 * shares) + int(rng.integers(-1, 2))] = 1
        survey.add(split, str(number), rng.integers(0, 256, (20, 20, 3), np.uint8), mask)


def test_images_of_one_size_are_neither_large_nor_small():
    survey = Survey(("background", "cat"))
    _split_of(survey, "train", 0.5)
    reasons = {reason for shown in survey.examples() for reason in shown.reasons}
    assert reasons == {"random", "most cat", "little cat"}
    assert len(Survey(("background", "cat"), num_random=0).examples()) == 0


def test_class_0_is_a_class_unless_it_is_called_background():
    survey = Survey(("sky", "road"))
    mask = np.ones((40, 40), np.uint8)
    mask[0, :5] = 0
    survey.add("train", "a", np.zeros((40, 40, 3), np.uint8), mask)
    assert dict(survey.small) == {0: [("train", "a")]}
    assert "little sky" in survey.examples()[0].reasons


def test_a_class_that_is_rarer_in_one_split_is_told():
    shifted = Survey(("background", "cat"))
    _split_of(shifted, "train", 0.1)
    _split_of(shifted, "val", 0.5)
    share = [shifted.splits[split].pixels[1] / shifted.splits[split].pixels.sum() for split in ("train", "val")]
    told = [f"cat: {100 * share[0]:.2f} % of the labelled pixels in train, {100 * share[1]:.2f} % in val."]
    assert list(shifted._shifts()) == told
    alike = Survey(("background", "cat"))
    _split_of(alike, "train", 0.5)
    _split_of(alike, "val", 0.45)
    assert list(alike._shifts()) == []


def test_a_difference_that_chance_makes_is_not_told():
    """One of ten images is full of cat in train, three are in val: three times the pixels, and no evidence."""
    survey = Survey(("background", "cat"))
    rng = np.random.default_rng(0)
    for split, full in (("train", 1), ("val", 3)):
        for number in range(10):
            mask = np.full((20, 20), int(number < full), np.uint8)
            survey.add(split, str(number), rng.integers(0, 256, (20, 20, 3), np.uint8), mask)
    assert list(survey._shifts()) == []


def test_small_objects_are_a_table_with_links():
    survey, _ = _survey()
    page = dataset_page.render("A", survey, [Crop("c", np.zeros((9, 9, 3), np.uint8), np.ones((9, 9), np.uint8))], {})
    row = re.search(r"<h2>Small objects</h2>.*?</i>&lt;dog&gt;</th>(.*?)</tr>", page, re.DOTALL)[1]
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == [
        "1",
        "100.00 %",
        '<a href="#train/image_2">train/image_2</a>',
    ]
    assert 'id="train/image_2"' in page


def test_every_class_is_shown():
    names = ("background", *(f"class_{index}" for index in range(1, 151)))
    survey = Survey(names)
    for number in range(200):
        mask = np.full((64, 64), 1 + number % 150, np.uint8)
        mask[:32] = 1 + (number + 1) % 150
        survey.add("train", str(number), np.full((64, 64, 3), number, np.uint8), mask)
    shown = survey.examples()
    assert {index for example in shown for index in np.unique(example.mask)} == set(range(1, 151))
    assert len(shown) <= 150


def test_pictures_have_a_size_for_the_page():
    for size, expected in (((900, 300), (480, 160)), ((10, 7), (160, 112)), ((300, 200), (300, 200))):
        image, mask = fit(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
        assert mask.shape == expected
        assert image.shape == (*expected, 3)


class _Parser(html.parser.HTMLParser):
    """Notes every element, and that each that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.elements = [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing():
    survey, _ = _survey()
    crops = [Crop("<image>", np.zeros((33, 33, 3), np.uint8), np.full((33, 33), 255, np.uint8))]
    text = dataset_page.render("A & B", survey, crops, {"data": "<here>"})
    parser = _Parser()
    parser.feed(text)
    assert not parser.open
    assert "100 % of the training crops is void or padding" in text
    assert "default-src 'none'" in text
    assert "<dog>" not in text
    assert "&lt;dog&gt;" in text
    for _, attributes in parser.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", text)
    images = [attributes for tag, attributes in parser.elements if tag == "img"]
    assert len(images) == 2 * (len(survey.examples()) + 1)
    assert all(image["alt"] for image in images)


def test_crops_are_those_of_training(shards):
    split = Split.read(shards, "train")
    augmentation = Augmentation(AugmentationSettings(crop_size=65))
    first = first_crops(split, augmentation, 3, seed=7)
    again = first_crops(split, augmentation, 3, seed=7)
    for crop, same in zip(first, again, strict=True):
        assert crop.image.shape == (65, 65, 3)
        assert crop.image.dtype == np.uint8
        assert crop.mask.shape == (65, 65)
        assert crop.name == same.name
        np.testing.assert_array_equal(crop.image, same.image)


@pytest.fixture
def run_look(monkeypatch):
    def run(*arguments):
        values = flags.FlagValues()
        settings.define(SETTINGS, values)
        values(["look", *map(str, arguments)])
        monkeypatch.setattr(settings, "FLAGS", values)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
        options = settings.Options(SETTINGS)
        check_flags(options, [])
        look.main(options, [])

    return run


def test_folders_and_shards_give_the_same_page(run_look, shapes_dir, shards, tmp_path):
    run_look(f"--voc_dir={shapes_dir}", f"--page={tmp_path}/voc.html", "--crop_size=65", "--crops=2")
    run_look(f"--tfrecord_dir={shards}", f"--page={tmp_path}/shards.html", "--crop_size=65", "--crops=2")
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("voc", "shards")]
    assert "10</b>images in train" in pages[0]
    assert "5</b>images in val" in pages[0]
    assert "triangle" in pages[0]
    names = [re.findall(r"<b>(shapes_\d+)</b>", page)[-2:] for page in pages]
    assert len(names[0]) == 2


def test_without_data_there_is_a_line(run_look):
    with pytest.raises(UsageError, match="give --voc_dir"):
        run_look()
