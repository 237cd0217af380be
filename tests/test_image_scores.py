"""The scores of each image: per_image.csv."""

import csv
import io

import numpy as np
import pytest

from deeplab.data.input.stored import names_in_list_order
from deeplab.data.shards.split import Split
from deeplab.data.source import voc
from deeplab.view import page
from deeplab.view.image_scores import ImageScores

NAMES = ("background", "cat, tabby", "dog")


def test_the_scores_of_an_image_are_those_by_hand():
    table = ImageScores(NAMES)
    truth = np.array([[0, 0, 1, 255], [0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [0, 1, 0, 2]], np.uint8)  # of dog there is only a void pixel
    table.view("a/b", np.zeros((2, 4, 3), np.uint8), truth, prediction)
    table.view("void", np.zeros((1, 2, 3), np.uint8), np.full((1, 2), 255, np.uint8), np.zeros((1, 2), np.uint8))
    first, second = csv.DictReader(io.StringIO(table.as_csv(["void", "a/b"])))
    assert [first["name"], second["name"]] == ["void", "a/b"]
    assert [second["height"], second["width"]] == ["2", "4"]
    assert float(second["void_share"]) == pytest.approx(2 / 8)
    assert float(second["pixel_accuracy"]) == pytest.approx(4 / 6, abs=1e-6)
    assert float(second["iou background"]) == pytest.approx(2 / 4)
    assert float(second["iou cat, tabby"]) == pytest.approx(2 / 4)
    assert second["iou dog"] == ""
    assert float(second["mean_iou"]) == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert (first["void_share"], first["mean_iou"], first["pixel_accuracy"]) == ("1.000000", "", "")


def test_rows_come_in_the_order_of_the_list(shards, shapes_dir):
    assert names_in_list_order(Split.read(shards, "train")) == voc.read_split(shapes_dir, "train")  # in 3 files


def test_the_report_links_a_file_in_another_folder(tmp_path):
    link = page.link(tmp_path / "run" / "eval 1" / "per_image.csv", tmp_path / "report")
    assert link == '<a href="../run/eval%201/per_image.csv">per_image.csv</a>'
