"""YOLO: outlines, boxes and the forms of data.yaml become a data set, or a line names what is wrong."""

import numpy as np
import pytest
from converted import _classes, _image, _masks, _splits

from deeplab.data.source.formats.writer import write_voc
from deeplab.data.source.formats.yolo import read_yolo
from deeplab.errors import DataError


@pytest.fixture
def yolo(tmp_path):
    """Images train/a, train/b and val/c, whose outlines cover the left half, nothing, and a diagonal."""
    pytest.importorskip("yaml")
    folder = tmp_path / "yolo"
    for name in ("train/a", "train/b", "val/c"):
        _image(folder / "images" / f"{name}.jpg", (40, 30))
    for split in ("train", "val"):
        (folder / "labels" / split).mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text("1 0 0 0.475 0 0.475 0.966667 0 0.966667\n\n")
    (folder / "labels" / "val" / "c.txt").write_text("0 0 0 1 0 1 1\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return folder


def test_yolo_outlines_splits_and_images_without_labels(yolo, tmp_path, caplog):
    write_voc(read_yolo(yolo / "data.yaml"), tmp_path / "voc", 0.5)
    assert _classes(tmp_path / "voc") == ["background", "cat", "dog"]
    assert _splits(tmp_path / "voc") == {"train": ["a", "b"], "val": ["c"]}
    masks = _masks(tmp_path / "voc")
    expected = np.zeros((30, 40), np.uint8)
    expected[:, :20] = 2
    np.testing.assert_array_equal(masks["a"], expected)
    assert not masks["b"].any()
    assert "left out: 1 no label file: image taken as background only" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "path: ../elsewhere\ntrain: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']\n",  # Roboflow's
        "path: .\ntrain: [images/train, images/val]\nval:\nnames:\n  - cat\n  - dog\n",
        "train: train.txt\nval: images/val\nnames: [cat, dog]\n",
    ],
)
def test_data_yaml_in_its_forms(yolo, text):
    (yolo / "train.txt").write_text("./images/train/a.jpg\n./images/train/b.jpg\n")
    (yolo / "data.yaml").write_text(text)
    data = read_yolo(yolo / "data.yaml")
    assert sorted(example.name[-1] for example in data.examples) == ["a", "b", "c"]
    assert data.class_names == ("background", "cat", "dog")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0 0 1 0 1 1", r"a\.txt: line 1: class 2, but data.yaml names 2 \(0 to 1\)"),
        ("0 0 0 40 0 40 30", r"a\.txt: line 1: coordinate 40 is not a fraction"),
        ("0 0 0 1 0 1", r"a\.txt: line 1: 5 coordinates"),
        ("0 0 0 1 0 1 nan", r"a\.txt: line 1: coordinate nan"),
        ("cat 0 0 1 0 1 1", r"a\.txt: line 1: could not convert"),
        ("0 0.5 0.5 1 1", r"1 of 2 objects have a box but no outline: --boxes=object"),
    ],
)
def test_yolo_lines_that_are_refused(yolo, line, reason):
    (yolo / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(DataError, match=reason):
        read_yolo(yolo / "data.yaml")


def test_yolo_boxes(yolo, tmp_path):
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.25 0.5 0.45 0.9\n")
    for boxes, label in (("object", 1), ("void", 255), ("nothing", 0)):
        write_voc(read_yolo(yolo / "data.yaml", boxes), tmp_path / boxes, 0.5)
        assert _masks(tmp_path / boxes)["a"][15, 10] == label


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: images/train\n", "no `names`"),
        ("names: [cat\n", "cannot be read as YAML"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]\n", "labels for poses"),
        (
            "train: images/train\nval: images/train\nnames: [cat, dog]\n",
            "a.jpg: annotated twice, as a of train and a of val",
        ),
        ("train: nowhere\nnames: [cat, dog]\n", "nowhere: no such folder or file"),
        ("train: images/train\nnames: [cat, no]\n", "the label False is not text; put it into quotes"),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", "the numbers are not 0 to 1"),
        ("train: images/train\nnames: [cat, 'cat ']\n", "duplicate name 'cat'"),
    ],
)
def test_data_yaml_that_is_refused(yolo, text, reason):
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=reason):
        write_voc(read_yolo(yolo / "data.yaml"), yolo / "voc", 0.5)


def test_labels_in_the_wrong_place_are_not_background(yolo):
    (yolo / "labels").rename(yolo / "annotations")
    with pytest.raises(DataError, match=r"3 images, no outline in .*labels/train/a\.txt"):
        read_yolo(yolo / "data.yaml")
