"""Pictures of masks, and the viewers that draw them."""

import re
from pathlib import Path

import numpy as np
import pytest
import safe_colors
from PIL import Image

from deeplab import labels
from deeplab.data.source import voc
from deeplab.view import pictures, report
from deeplab.view.colors import class_colors
from deeplab.view.fonts import font_for
from deeplab.view.panel import Panel
from deeplab.view.picture_writer import PictureWriter


def test_color_mask_shows_colors_and_keeps_indices(tmp_path):
    mask = np.array([[0, 1, 15], [20, 255, 2]], np.uint8)
    pictures.save(pictures.color_mask(mask), tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.array(image), mask)
        colors = np.array(image.convert("RGB"))
    # From the table of colours of the VOC 2012 devkit: aeroplane, person, tvmonitor, void.
    for place, color in {(0, 1): (128, 0, 0), (0, 2): (192, 128, 128), (1, 0): (0, 64, 128)}.items():
        assert tuple(colors[place]) == color
    assert tuple(colors[1, 1]) == (224, 224, 192)


def test_overlay_mixes_and_leaves_background_clear():
    image = np.full((1, 4, 3), 100, np.uint8)
    mask = np.array([[0, 1, 1, 1]], np.uint8)
    mixed = np.array(pictures.overlay(image, mask, voc.CLASS_NAMES, opacity=0.4))
    # Aeroplane is (128, 0, 0): its contour at opacity 0.8, the rest of it at 0.4.
    np.testing.assert_array_equal(mixed, [[[100, 100, 100], [122, 20, 20], [111, 60, 60], [111, 60, 60]]])
    hidden = pictures.overlay(image, mask, voc.CLASS_NAMES, shown=[], opacity=0.4)
    np.testing.assert_array_equal(np.array(hidden), image)


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (("background", "cat"), [1]),
        (("_background_", "cat"), [1]),
        (("sky", "road", "car"), [0, 1, 2]),  # CamVid's class 0 is a class as any other
    ],
)
def test_only_a_class_0_that_is_called_background_is_left_clear(names, drawn):
    assert list(labels.foreground(names)) == drawn


def test_side_by_side_keeps_each_picture_whole():
    row = pictures.side_by_side(Image.new("RGB", (2, 3), "red"), Image.new("L", (4, 1), 7))
    assert row.size == (2 + 4 + 4, 3)
    pixels = np.array(row)
    assert (pixels[:, :2] == [255, 0, 0]).all()
    assert (pixels[0, 6:] == 7).all()
    assert (pixels[:, 2:6] == 255).all()


def test_error_map_shows_the_kinds_of_errors_and_void_white():
    image = np.full((1, 5, 3), 100, np.uint8)
    truth, prediction = np.array([[0, 1, 255, 2, 0]], np.uint8), np.array([[0, 2, 1, 0, 1]], np.uint8)
    pixels = np.array(pictures.error_map(image, truth, prediction, ("background", "a", "b")).convert("RGB"))
    kinds = [pictures.WRONG_CLASS, [255] * 3, pictures.MISSED, pictures.FALSE_ALARM]
    np.testing.assert_array_equal(pixels[0], [[178] * 3, *kinds])
    without = np.array(pictures.error_map(image, truth, prediction, ("sky", "a", "b")).convert("RGB"))
    np.testing.assert_array_equal(without[0, [1, 3, 4]], [pictures.WRONG_CLASS] * 3)


def test_kinds_of_errors_differ_to_all_eyes_and_are_those_of_the_report():
    kinds = np.array([pictures.MISSED, pictures.FALSE_ALARM, pictures.WRONG_CLASS], np.uint8)
    assert safe_colors.smallest_difference(kinds) > 30
    script = Path(report.__file__).with_name("report.js").read_text()
    written = re.search(r"const KINDS = \{(.*?)\};", script)[1]
    assert re.findall(r"\[(\d+), (\d+), (\d+)\]", written) == [tuple(map(str, kind)) for kind in kinds.tolist()]


def test_panel_has_four_pictures_and_void_is_white():
    image = np.full((40, 80, 3), 100, np.uint8)
    truth = np.full((40, 80), 255, np.uint8)
    prediction = np.full((40, 80), 1, np.uint8)
    pixels = np.array(pictures.panel(image, truth, prediction, voc.CLASS_NAMES))
    top = 19  # of the heading
    assert pixels.shape[1] == 4 * 80 + 3 * 4
    middle = pixels[top + 20, 40::84]
    np.testing.assert_array_equal(middle, [[100] * 3, [255] * 3, [128, 0, 0], [255] * 3])
    small = pictures.panel(image, truth, prediction, ("background", "thing"), largest_side=70)
    assert small.width == 4 * 70 + 3 * 4


def test_a_panel_over_the_image_leaves_background_and_void_clear():
    names = ("background", "thing")
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 30:60] = 1
    mask[:, 70:] = 255
    pixels = np.array(pictures.panel(image, mask, mask % 255, names, opacity=0.6))
    truth = pixels[19 : 19 + 40, 84:164]
    np.testing.assert_array_equal(truth[mask != 1], image[mask != 1])
    np.testing.assert_array_equal(truth, np.array(pictures.overlay(image, mask, names, opacity=0.6)))
    colors = class_colors(names)
    colors[255] = 255
    legend = pictures.legend({1: "thing", 255: "void: not scored"}, pixels.shape[1], colors)
    np.testing.assert_array_equal(pixels[19 + 40 :], np.array(legend))


def test_headings_of_small_pictures_are_not_cut():
    image = np.zeros((20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    widths = [
        pictures.panel(image, mask, mask, ("background", "thing"), note=note).width for note in ("", ", mIoU 100.0 %")
    ]
    longer = font_for("m", 13).getlength("prediction, mIoU 100.0 %") - font_for("m", 13).getlength("prediction")
    assert abs(widths[1] - widths[0] - longer) <= 1


def test_class_shares_leave_void_out():
    mask = np.array([[3, 3, 3, 0], [255, 255, 255, 255]], np.uint8)
    assert pictures.class_shares(mask) == [(3, 0.75), (0, 0.25)]
    assert pictures.class_shares(np.full((2, 2), 255, np.uint8)) == []


def test_legend_has_a_square_for_each_class_and_grows_with_long_names():
    picture = pictures.legend({1: "a" * 100, 15: "person"}, 20, labels.palette())
    pixels = np.array(picture)
    assert picture.width > 500
    assert tuple(pixels[10, 8]) == (128, 0, 0)
    assert tuple(pixels[19 + 10, 8]) == (192, 128, 128)


def test_confusion_picture_is_dark_where_a_class_is_found():
    matrix = np.array([[9, 1, 0], [0, 0, 0], [5, 0, 5]])
    pixels = np.array(pictures.confusion_picture(matrix, ("a", "b", "c"))).astype(int)
    size = 32
    margin = pixels.shape[0] - 1 - 3 * size
    corners = pixels[margin + 4 :: size, margin + 4 :: size][:3, :3]  # clear of the numbers
    expected = 255 + np.sqrt(np.array([[0.9, 0.1, 0], [0, 0, 0], [0.5, 0, 0.5]]))[..., None] * (
        np.array([8, 48, 107]) - 255
    )
    expected[1] = 225  # a class without pixels
    np.testing.assert_allclose(corners, expected, atol=0.51)
    many = pictures.confusion_picture(np.eye(60, dtype=int), [str(index) for index in range(60)])
    assert many.width < 1200


def _examples(count):
    rng = np.random.default_rng(0)
    for number in range(count):
        size = (20 + number, 30 - number)
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        truth, prediction = (rng.integers(0, 2, size).astype(np.uint8) for _ in range(2))
        yield f"picture_{number}", image, truth, prediction


def test_picture_writer_writes_a_mask_and_a_row_for_each_example(tmp_path):
    writer = PictureWriter(tmp_path / "out", ("background", "thing"))
    for example in _examples(2):
        writer.view(*example)
        name, image, truth, prediction = example
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as mask:
            np.testing.assert_array_equal(np.array(mask), prediction)
        expected = pictures.panel(image, truth, prediction, ("background", "thing"))
        with Image.open(tmp_path / "out" / "side_by_side" / f"{name}.png") as row:
            np.testing.assert_array_equal(np.array(row), np.array(expected))
    assert len(list(tmp_path.rglob("*.png"))) == 4


def test_panel_of_an_evaluation_has_its_first_examples_and_the_confusion_matrix():
    panel, matrix = Panel(("background", "thing"), count=2), np.array([[3, 1], [0, 4]])
    for _ in range(2):
        assert [panel.wants(number) for number in range(3)] == [True, True, False]
        for example in _examples(2):
            panel.view(*example)
        drawn = panel.pictures(matrix)
        assert list(drawn) == ["confusion_matrix/of_all_images", "predictions/picture_0", "predictions/picture_1"]
        for name, *example in _examples(2):
            _, truth, prediction = example
            ious = [((truth == i) & (prediction == i)).sum() / ((truth == i) | (prediction == i)).sum() for i in (0, 1)]
            note = f", mIoU {50 * sum(ious):.1f} %"
            expected = pictures.panel(*example, ("background", "thing"), opacity=pictures.OPACITY, note=note)
            np.testing.assert_array_equal(drawn[f"predictions/{name}"], np.array(expected))
        expected = pictures.confusion_picture(matrix, ("background", "thing"))
        np.testing.assert_array_equal(drawn["confusion_matrix/of_all_images"], np.array(expected))
