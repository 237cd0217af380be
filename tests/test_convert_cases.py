"""Converters on data sets in the true layouts of other tools; they are not part of the project."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.commands.convert import CocoSettings, ReadingSettings, SourceSettings, read
from deeplab.data.source.classes import read_classes
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import DataError

CASES = Path(__file__).resolve().parents[1].parent / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"needs {CASES}")


@pytest.fixture
def convert(tmp_path):
    """Converts a case by its name; returns the folder in VOC's layout, and the masks by their names."""

    def convert_case(case, **options):
        pytest.importorskip("pycocotools")
        folder = CASES / case
        coco = CocoSettings()
        if case.startswith("lm_"):
            source = SourceSettings(labelme_dir=folder / "drawn")
        elif case == "coco_roboflow":
            source = SourceSettings(coco_dir=folder)
        elif case.startswith("coco_"):
            source = SourceSettings(coco_json=folder / "instances.json")
            coco = CocoSettings(image_dir=folder / "images")
        elif case == "yolo_seg":
            source = SourceSettings(yolo_yaml=folder / "data.yaml")
        else:
            source = SourceSettings(**{f"{case.split('_')[0]}_dir": folder})
        write_voc(read(source, ReadingSettings(**options), coco), tmp_path / "voc", 0.2)
        masks = tmp_path / "voc" / "SegmentationClass"
        return tmp_path / "voc", {
            str(path.relative_to(masks).with_suffix("")): np.array(Image.open(path)) for path in masks.rglob("*.png")
        }

    return convert_case


def _truth(case, name):
    path = CASES / case / "truth" / f"{Path(name).name}.png"
    if not path.exists():
        path = CASES / "truth_index_masks" / f"{re.search(r'img_[0-9]{3}', name)[0]}.png"
    return np.array(Image.open(path)) if path.exists() else None


@pytest.mark.parametrize(
    "case",
    [
        "lm_basic",
        "lm_mask",
        "lm_hole__background_",
        "lm_nested",
        "lm_imagedata_only",
        "coco_polygons",
        "coco_rle",
        "coco_rle_compressed",
        "coco_empty_polygon",
        "yolo_seg",
        "roboflow_masks",
    ],
)
def test_masks_equal_the_truth(convert, case):
    voc_dir, masks = convert(case)
    assert len(masks) >= 12
    compared = 0
    for name, mask in masks.items():
        truth = _truth(case, name)
        if truth is not None:
            np.testing.assert_array_equal(mask, truth, err_msg=name)
            compared += 1
    assert compared >= 12
    assert read_classes(voc_dir / "class_names.txt").names == ("background", "cat", "dog")


def test_a_stray_line_is_left_out_and_named(convert, caplog):
    _, masks = convert("lm_line")
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, np.array(Image.open(CASES / "truth_index_masks" / f"{name}.png")))
    assert "left out: 1 line: covers no area (img_003.json)" in caplog.text


def test_labels_that_look_alike(convert, caplog):
    voc_dir, _ = convert("lm_label_spelling")
    assert (voc_dir / "class_names.txt").read_text().split() == ["background", "Cat", "cat", "dog"]
    assert "'Cat', 'cat'" in caplog.text
    assert read_classes(voc_dir / "class_names.txt").names == ("background", "Cat", "cat", "dog")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("lm_size_differs", "160x120 pixels, but its annotation is for 320x240"),
        ("coco_size_differs", "160x120 pixels, but its annotation is for 320x240"),
        ("lm_three_images_missing", r"3 missing files: .*img_003\.jpg.*img_006\.jpg.*img_009\.jpg"),
        ("coco_boxes_only_few", "8 of 24 objects have a box but no outline: --boxes=object"),
        ("coco_unknown_category", "annotation 4: unknown category 77; the file has 3 'dog', 18 'cat'"),
    ],
)
def test_what_is_refused(convert, tmp_path, case, words):
    with pytest.raises(DataError, match=words):
        convert(case)
    assert not list(tmp_path.iterdir())


def test_boxes_by_their_flag(convert):
    _, masks = convert("coco_boxes_only_few", boxes="void")
    assert any((mask == 255).any() for mask in masks.values())


def test_same_names_in_two_folders(convert):
    _, masks = convert("coco_subfolders_same_names")
    assert len(masks) == 12
    assert {name.split("/")[0] for name in masks} == {"day1", "day2"}


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("coco_roboflow", {"train": 10, "val": 4, "test": 2}),
        ("yolo_seg", {"train": 12, "val": 4}),
        ("roboflow_masks", {"train": 12, "val": 4, "test": 2}),
        ("cityscapes", {"train": 8, "val": 4}),
    ],
)
def test_splits_are_kept(convert, case, sizes):
    voc_dir, _ = convert(case)
    lists = (voc_dir / "ImageSets" / "Segmentation").iterdir()
    assert {path.stem: len(path.read_text().splitlines()) for path in lists} == sizes
    if case == "coco_roboflow":
        assert read_classes(voc_dir / "class_names.txt").names == ("background", "cat", "dog")


def test_cityscapes_masks_are_the_train_ids(convert):
    voc_dir, masks = convert("cityscapes")
    for name, mask in masks.items():
        (path,) = (CASES / "cityscapes" / "gtFine").rglob(f"{name}_gtFine_labelTrainIds.png")
        np.testing.assert_array_equal(mask, np.array(Image.open(path)))
    assert (voc_dir / "class_names.txt").read_text() == (CASES / "cityscapes" / "names.txt").read_text()
