"""Readers draw the pixels that each tool's own package draws: golden files of bench/checks/formats.py."""

import re
from pathlib import Path

import numpy as np
import pytest
from converted import masks_of, read_format
from PIL import Image

GOLDEN = Path(__file__).parent / "golden" / "formats"
GIVEN = [
    ("cvat", "cvat_xml", "annotations.xml"),
    ("label_studio", "label_studio_json", "export.json"),
    ("label_studio_min", "label_studio_json", "export.json"),
    ("supervisely", "supervisely_dir", ""),
    ("supervisely_voc", "supervisely_dir", "voc/VOCdevkit/VOC"),
    ("darwin", "darwin_dir", ""),
    ("panoptic", "panoptic_dir", ""),
    ("segments_ai", "segments_json", "release.json"),
    ("via", "via_json", "project.json"),
    ("rle_table", "rle_csv", "train.csv"),
    ("parquet", "parquet_dir", "data"),
]
"""Folder in GOLDEN, the flag that reads it, and the file."""


@pytest.mark.parametrize(("name", "flag", "file"), GIVEN)
def test_no_pixel_differs_from_the_tools_own_drawing(tmp_path, name, flag, file):
    if name in ("cvat", "label_studio", "label_studio_min", "via"):
        pytest.importorskip("pycocotools")
    if name == "parquet":
        pytest.importorskip("pyarrow")
    image_dir = GOLDEN / name / "images" if flag == "rle_csv" else None
    masks = masks_of(read_format(GOLDEN / name, flag, file, image_dir), tmp_path)
    truths = {
        re.sub(r"^(train|val|set)_|_(?=\d{6}$)", r"\1/", path.stem): np.array(Image.open(path))
        for path in (GOLDEN / name / "truth").iterdir()
    }
    assert len(truths) >= 3
    assert masks.keys() == truths.keys()
    for image, mask in masks.items():
        np.testing.assert_array_equal(mask, truths[image], err_msg=image)
    used = np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))
    assert used.tolist() == [0, 1, 2, 255]
    assert (tmp_path / "voc" / "class_names.txt").read_text().split() == ["background", "cat", "dog"]
