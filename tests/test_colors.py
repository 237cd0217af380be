"""The colors of classes: VOC's where they are VOC's, else some that color-blind people tell apart."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import safe_colors

from deeplab.data.source import voc
from deeplab.errors import UsageError
from deeplab.labels import VOID_LABEL, ColoredNames, palette
from deeplab.model.settings import ModelConfig
from deeplab.run import run_folder
from deeplab.view import page, pictures
from deeplab.view.colors import class_colors
from deeplab.view.gallery import Gallery

CAMVID = [
    "sky",
    "building",
    "column_pole",
    "road",
    "sidewalk",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]


def test_differences_are_those_of_published_pairs():
    """CIELAB of sRGB's primaries (Lindbloom's calculator), and what dichromats are known to confuse."""
    primaries = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    expected = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0]]
    np.testing.assert_allclose(safe_colors.lab(primaries), expected, atol=0.02)
    red, green, blue, white = primaries
    for eye in ("protanopia", "deuteranopia"):
        assert np.ptp(safe_colors.lab(white[None], eye)[0, 1:]) < 0.1  # a gray stays gray
        between = [
            np.linalg.norm(np.subtract(*safe_colors.lab(np.stack(pair), eye))) for pair in ((red, green), (red, blue))
        ]
        assert between[0] < 0.7 * between[1]


@pytest.mark.parametrize(("count", "least"), [(8, 33), (11, 25), (20, 16), (32, 12)])
def test_classes_differ_to_all_eyes(count, least):
    colors = class_colors([f"class {index}" for index in range(count)])[:count]
    assert safe_colors.smallest_difference(colors) > least
    assert safe_colors.smallest_difference(palette()[:count]) < 10  # VOC's, for comparison


def test_no_class_looks_like_void_the_page_or_the_background():
    names = ("background", *map(str, range(20)))
    colors = class_colors(names)
    assert colors[0].tolist() == [0, 0, 0]
    others = np.array([[0, 0, 0], [255, 255, 255], colors[VOID_LABEL]], np.uint8)
    assert min(float(safe_colors.difference(one, other)) for one, other in itertools.product(colors[1:21], others)) > 16


GIVEN = ColoredNames(("background", "cat", "dog"), ("", "#010203", ""))


def test_a_given_color_is_that_of_overlay_legend_report_and_data_of_images(tmp_path):
    usual = class_colors(tuple(GIVEN))
    expected = np.where((np.arange(256) == 1)[:, None], (1, 2, 3), usual)
    np.testing.assert_array_equal(class_colors(GIVEN), expected)

    mask = np.ones((4, 6), np.uint8)
    mask[:, 3:] = 2
    overlay = np.array(pictures.overlay(np.zeros((4, 6, 3), np.uint8), mask, GIVEN, opacity=1.0))
    np.testing.assert_array_equal(overlay, class_colors(GIVEN)[mask])
    legend = np.array(pictures.legend({1: "cat"}, 60, class_colors(GIVEN)))
    assert legend[8, 8].tolist() == [1, 2, 3]
    panel = pictures.panel(np.zeros((4, 6, 3), np.uint8), mask, mask, GIVEN)
    assert (np.array(panel) == (1, 2, 3)).all(-1).any()
    assert "rgb(1,2,3)" in page.class_name(1, GIVEN)
    assert json.loads(Gallery(tmp_path, GIVEN).data({}))["colors"][1] == [1, 2, 3]


@pytest.mark.parametrize("colors", [("#010203",), ("red", "", ""), ("#0102", "", "")])
def test_malformed_colors_are_refused(colors):
    with pytest.raises(ValueError, match="color"):
        ColoredNames(("background", "cat", "dog"), colors)


def test_a_run_goes_on_with_other_colors_and_not_with_other_names(tmp_path):
    config = ModelConfig(tuple(GIVEN), class_colors=GIVEN.colors)
    run_folder.record_run(tmp_path, config, "")
    assert run_folder.read_config(tmp_path).colored_names.colors == GIVEN.colors
    run_folder.check_run(tmp_path, replace(config, class_colors=()), "", "", fixed=())
    with pytest.raises(UsageError, match="class_names"):
        run_folder.check_run(tmp_path, replace(config, class_names=("background", "cow", "dog")), "", "", fixed=())


def test_vocs_classes_may_have_other_colors():
    cats = ColoredNames(voc.CLASS_NAMES, ["#010203" if name == "cat" else "" for name in voc.CLASS_NAMES])
    assert np.flatnonzero((class_colors(cats) != palette()).any(1)).tolist() == [voc.CLASS_NAMES.index("cat")]


def test_all_colors_differ():
    assert len(np.unique(class_colors([str(index) for index in range(255)])[:255], axis=0)) == 255


def test_vocs_classes_keep_vocs_colors():
    np.testing.assert_array_equal(class_colors(voc.CLASS_NAMES), palette())
    assert not np.array_equal(class_colors(CAMVID), palette())


def test_the_table_is_the_one_that_the_script_prints():
    np.testing.assert_array_equal(class_colors(CAMVID)[: len(CAMVID)], safe_colors.choose(len(CAMVID)))
