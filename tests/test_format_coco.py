"""COCO: outlines, run lengths, boxes and splits become a data set, or a line names the annotation."""

import json

import numpy as np
import pytest
from converted import _classes, _image, _masks, _splits

from deeplab.data.source.formats.coco import InstancesFile, instances_files, read_coco
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import DataError


def _coco(tmp_path, annotations, sizes=((6, 4), (6, 4)), categories=((7, "small"), (9, "large"))):
    folder = tmp_path / "images"
    for number, size in enumerate(sizes):
        if not (folder / f"{number}.jpg").exists():
            _image(folder / f"{number}.jpg", size)
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]}
            for number, size in enumerate(sizes)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [{"id": 100 + number, **each} for number, each in enumerate(annotations)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return [InstancesFile(tmp_path / "coco.json", folder)]


def _object(segmentation, category=7, image=0, **others):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **others}


COUNTS = [4, 3, 5, 2, 10]  # column by column: column 1 rows 0-2, column 3 rows 0-1


@pytest.fixture
def mask_api():
    return pytest.importorskip("pycocotools.mask")


def test_coco_run_lengths_polygons_and_crowds_smaller_ones_in_front(tmp_path, mask_api):
    run_lengths = {"size": [4, 6], "counts": COUNTS}
    compressed = mask_api.frPyObjects(run_lengths, 4, 6)
    compressed["counts"] = compressed["counts"].decode()
    for segmentation in (run_lengths, compressed):
        files = _coco(tmp_path, [_object(segmentation, iscrowd=1), _object([[0, 0, 6, 0, 6, 4, 0, 4]], 9)])
        voc_dir = tmp_path / str(type(segmentation["counts"]))
        write_voc(read_coco(files), voc_dir, 0.5)
        expected = np.ones((4, 6), np.uint8)
        expected[0:3, 1] = expected[0:2, 3] = 2
        np.testing.assert_array_equal(_masks(voc_dir)["0"], expected)
        assert (_masks(voc_dir)["1"] == 0).all()
        assert _classes(voc_dir) == ["background", "large", "small"]


def test_coco_outlines_are_those_of_pycocotools(tmp_path, mask_api):
    rng = np.random.default_rng(0)
    sizes = [tuple(rng.integers(20, 90, 2).tolist()) for _ in range(12)]
    annotations, truths = [], []
    for number, (width, height) in enumerate(sizes):
        polygons = [(rng.uniform(-0.2, 1.2, (6, 2)) * (width, height)).ravel().tolist() for _ in range(2)]
        annotations.append(_object(polygons, image=number))
        truths.append(mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons, height, width))))
    write_voc(read_coco(_coco(tmp_path, annotations, sizes)), tmp_path / "voc", 0.5)
    masks = _masks(tmp_path / "voc")
    for number, truth in enumerate(truths):
        np.testing.assert_array_equal(masks[str(number)], 2 * truth)


@pytest.mark.parametrize(("boxes", "label", "behind"), [("object", 2, 1), ("void", 255, 1), ("nothing", 0, 1)])
def test_boxes_mean_what_is_said(tmp_path, mask_api, caplog, boxes, label, behind):
    annotations = [_object([], bbox=[0, 0, 6, 4]), _object([[0, 0, 2, 0, 2, 4, 0, 4]], 9)]
    files = _coco(tmp_path, annotations)
    with pytest.raises(DataError, match=r"1 of 2 objects have a box but no outline: --boxes=object"):
        read_coco(files)
    write_voc(read_coco(files, boxes), tmp_path / "voc", 0.5)
    mask = _masks(tmp_path / "voc")["0"]
    assert mask[0, 5] == label
    assert (mask[:, :2] == behind).all()
    assert ("left out: 1 box without an outline (0.jpg)" in caplog.text) == (boxes == "nothing")


def test_coco_problems_name_the_annotation(tmp_path, mask_api, caplog):
    annotations = [
        _object([[0, 0, 6, 0, 6, 4]], 77),
        _object([[0, 0, 6, 0, 6, 4]]),
        _object([[0, 0, 6, 0, 6]]),
        _object({"size": [4, 7], "counts": COUNTS}),
        _object({"size": [4, 6], "counts": [-1]}),
        {"image_id": 0, "segmentation": []},
        _object([[0, 0, 6, "x", 6, 4]]),
    ]
    with pytest.raises(DataError, match="6 problems in all"):
        read_coco(_coco(tmp_path, annotations))
    for words in (
        "annotation 100: unknown category 77; the file has 7 'small', 9 'large'",
        "annotation 102 of 0.jpg: a polygon with an odd number of coordinates",
        "annotation 103 of 0.jpg: its run lengths are for 7x4 pixels, but the stated image size is 6x4",
        "annotation 104 of 0.jpg: its run lengths are neither",
        "annotations[5] (id 105): no 'category_id'",
        "annotation 106 of 0.jpg: could not convert",
    ):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [4, 6], "counts": [4, 3]}, "do not add up to 6x4"),
        ({"size": [4, 6], "counts": "PPPP"}, "cannot be drawn"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], r"the point \(1e\+09, 0\) is far outside its 6x4 pixels"),
    ],
)
def test_what_pycocotools_would_take_wrongly(tmp_path, mask_api, segmentation, reason):
    with pytest.raises(DataError, match=f"0.jpg: an object of 'small' .*{reason}"):
        write_voc(read_coco(_coco(tmp_path, [_object(segmentation)])), tmp_path / "voc", 0.5)
    assert not (tmp_path / "voc").exists()


def test_empty_outlines_are_counted(tmp_path, mask_api, caplog):
    annotations = [_object([[], [0, 0, 1, 1]]), _object([[0, 0, 6, 0, 6, 4, 0, 4], []]), _object([])]
    write_voc(read_coco(_coco(tmp_path, annotations)), tmp_path / "voc", 0.5)
    assert "left out: 3 polygon with fewer than 3 points (0.jpg)" in caplog.text
    assert "left out: 1 neither an outline nor a box (0.jpg)" in caplog.text
    assert (_masks(tmp_path / "voc")["0"] == 2).all()


def test_coco_files_that_are_none(tmp_path, mask_api):
    (tmp_path / "coco.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"coco\.json: not COCO's instances: no list 'annotations'"):
        read_coco([InstancesFile(tmp_path / "coco.json", tmp_path)])
    files = _coco(tmp_path, [])
    with pytest.raises(DataError, match=r"coco\.json: no object covers an area"):
        read_coco(files)
    content = json.loads((tmp_path / "coco.json").read_text())
    content["images"][0] |= {"width": "wide"}
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"bad\.json: image 0: named '0\.jpg', of size 'wide' x 4"):
        read_coco([InstancesFile(tmp_path / "bad.json", tmp_path / "images")])
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 missing file: .*1\.jpg \(of coco\.json\)"):
        read_coco(files)


def test_roboflows_export_is_one_data_set_with_its_splits(tmp_path, mask_api):
    """Its first category is a group, other ids are used in each file, and the splits have a name in common."""
    for split, dog in (("train", 2), ("valid", 1)):
        _image(tmp_path / split / "a.jpg", (6, 4))
        _image(tmp_path / split / f"{split}.jpg", (6, 4))
        categories = [{"id": 0, "name": "animals", "supercategory": "none"}]
        categories += [
            {"id": number, "name": name, "supercategory": "animals"}
            for number, name in ((dog, "dog"), (3 - dog, "cat"))
        ]
        content = {
            "categories": categories,
            "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": f"{split}.jpg"}],
            "annotations": [{"id": 1, "image_id": 5, "category_id": dog, "segmentation": [[0, 0, 6, 0, 6, 4, 0, 4]]}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    voc_dir = tmp_path / "voc"
    write_voc(read_coco(instances_files(tmp_path)), voc_dir, 0.5)
    assert _splits(voc_dir) == {"train": ["train", "train/a"], "val": ["val/a", "valid"]}
    assert _classes(voc_dir) == ["background", "cat", "dog"]
    masks = _masks(voc_dir)
    assert (masks["train/a"] == 2).all()
    assert (masks["val/a"] == 2).all()


def test_annotations_beside_images_as_coco_and_cvat_lay_them_out(tmp_path):
    for name in ("train2017", "val2017"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{name}.json").write_text("{}")
        (tmp_path / "annotations" / f"captions_{name}.json").write_text("{}")
    found = [(file.image_dir.name, file.split) for file in instances_files(tmp_path)]
    assert found == [("train2017", "train"), ("val2017", "val")]
    (tmp_path / "cvat" / "annotations").mkdir(parents=True)
    (tmp_path / "cvat" / "images").mkdir()
    (tmp_path / "cvat" / "annotations" / "instances_default.json").write_text("{}")
    assert [(file.image_dir.name, file.split) for file in instances_files(tmp_path / "cvat")] == [("images", "")]
    with pytest.raises(DataError, match="contains neither"):
        instances_files(tmp_path / "images")
