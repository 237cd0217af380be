"""Annotations of other tools become a data set with the right pixels, names and splits, or a line names the file."""

import base64
import csv
import io
import itertools
import json
import logging
import random

import numpy as np
import pytest
from conftest import write_mask
from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.classes import read_classes
from deeplab.data.source.formats.coco import InstancesFile, instances_files, read_coco
from deeplab.data.source.formats.dataset import class_table, name_in_voc, split_name
from deeplab.data.source.formats.findings import clean_label
from deeplab.data.source.formats.labelme import read_labelme
from deeplab.data.source.formats.masks import CITYSCAPES_CLASSES, read_ade20k, read_cityscapes, read_roboflow
from deeplab.data.source.formats.writer import write_voc
from deeplab.data.source.formats.yolo import read_yolo
from deeplab.errors import DataError, UsageError


def _image(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path, **options)
    return path


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def _masks(voc_dir):
    folder = voc_dir / "SegmentationClass"
    return {str(path.relative_to(folder).with_suffix("")): np.array(Image.open(path)) for path in folder.rglob("*.png")}


def _splits(voc_dir):
    return {path.stem: path.read_text().split() for path in (voc_dir / "ImageSets" / "Segmentation").iterdir()}


def _classes(voc_dir):
    return (voc_dir / "class_names.txt").read_text().splitlines()


# labelme


def _shape(label, kind, *points, **others):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **others}


def _square(label, left, top, side):
    right, bottom = left + side, top + side
    return _shape(label, "polygon", (left, top), (right, top), (right, bottom), (left, bottom))


def _annotate(path, image_path, *shapes, **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imagePath": image_path, "shapes": shapes, **others}), encoding="utf-8")


@pytest.fixture
def drawn(tmp_path):
    """Two annotated images, `one` (PNG) and `two` (JPEG)."""
    folder = tmp_path / "drawn"
    _image(folder / "one.png")
    _image(folder / "two.jpg")
    _annotate(
        folder / "one.json", "one.png", _square("wheel", 5, 5, 10), _shape("body", "rectangle", (30, 20), (10, 10))
    )
    _annotate(folder / "two.json", "two.jpg", _square("body", 0, 0, 39))
    return folder


def _convert_labelme(folder, tmp_path):
    write_voc(read_labelme(folder), tmp_path / "voc", 0.5)
    return tmp_path / "voc"


def test_labelme_shapes_later_ones_in_front(drawn, tmp_path):
    circle = _shape("__ignore__", "circle", (35, 25), (38, 25))
    content = json.loads((drawn / "one.json").read_text())
    (drawn / "one.json").write_text(json.dumps({**content, "shapes": [*content["shapes"], circle]}))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _classes(voc_dir) == ["background", "body", "wheel"]
    expected = np.zeros((30, 40), np.uint8)
    expected[5:16, 5:16] = 2
    expected[10:21, 10:31] = 1
    mask = _masks(voc_dir)["one"]
    np.testing.assert_array_equal(mask[:, :31], expected[:, :31])
    assert (mask[25, 32:39] == 255).all()
    assert abs((mask == 255).sum() - np.pi * 3.5**2) < 8
    assert sorted(path.name for path in (voc_dir / "JPEGImages").iterdir()) == ["one.png", "two.jpg"]
    assert (voc_dir / "JPEGImages" / "two.jpg").read_bytes() == (drawn / "two.jpg").read_bytes()
    assert sorted(itertools.chain(*_splits(voc_dir).values())) == ["one", "two"]


def test_random_split_is_the_one_that_it_was(drawn, tmp_path):
    for number in range(20):
        _image(drawn / f"more_{number:02d}.jpg")
        _annotate(drawn / f"more_{number:02d}.json", f"more_{number:02d}.jpg", _square("body", 0, 0, 9))
    voc_dir = tmp_path / "voc"
    write_voc(read_labelme(drawn), voc_dir, 0.25)
    names = [path.stem for path in sorted(drawn.glob("*.json"))]
    random.Random(0).shuffle(names)
    splits = _splits(voc_dir)
    assert splits["val"] == sorted(names[:6])
    assert splits["train"] == sorted(names[6:])


@pytest.mark.parametrize("kind", ["polygon", "rotation", "quadrilateral", "oriented_rectangle", "rectangle"])
def test_four_corners_cover_what_is_between_them(drawn, tmp_path, kind):
    """X-AnyLabeling's rectangles and rotated boxes have four corners, labelme 6's oriented rectangles, too."""
    _annotate(drawn / "one.json", "one.png", _shape("a", kind, (10, 5), (20, 15), (10, 25), (0, 15)))
    mask = _masks(_convert_labelme(drawn, tmp_path))["one"]
    rows, columns = np.mgrid[:30, :40]
    np.testing.assert_array_equal(mask == 1, abs(rows - 15) + abs(columns - 10) <= 10)


def test_masks_lines_and_points(drawn, tmp_path, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    png = io.BytesIO()
    pixels = np.zeros((4, 6), bool)
    pixels[1:3, 2:5] = True
    Image.fromarray(pixels).save(png, "PNG")
    encoded = base64.b64encode(png.getvalue()).decode()
    _annotate(
        drawn / "one.json",
        "one.png",
        _shape("a", "mask", (-1.0, 3.0), (4.0, 6.0), mask=encoded),
        _shape("b", "mask", (35.0, 27.0), (40.0, 30.0), mask=encoded),  # beyond the edge
        _shape("c", "line", (0, 0), (30, 20)),
        _shape("c", "linestrip", (0, 0), (30, 20), (5, 5)),
        _shape("c", "point", (3, 3)),
        _shape("c", "polygon", (3, 3), (4, 4)),
    )
    voc_dir = _convert_labelme(drawn, tmp_path)
    mask = _masks(voc_dir)["one"]
    expected = np.zeros_like(mask)
    expected[4:6, 1:4] = 1
    expected[28:30, 37:40] = 2
    np.testing.assert_array_equal(mask, expected)
    assert _classes(voc_dir) == ["background", "a", "b", "body"]
    for kind in ("line: covers no area", "linestrip: covers no area", "point: covers no area", "polygon with 2 points"):
        assert f"left out: 1 {kind} (one.json)" in caplog.text
    _annotate(drawn / "one.json", "one.png", _shape("a", "mask", (0, 0), (20, 20), mask=encoded))
    with pytest.raises(DataError, match=r"one\.json: a mask of 'a' has 6x4 pixels, its points say 21x21"):
        write_voc(read_labelme(drawn), tmp_path / "other", 0.5)
    assert not (tmp_path / "other").exists()


def test_old_files_byte_order_marks_subfolders_and_windows_paths(tmp_path):
    folder = tmp_path / "drawn"
    for day in ("day1", "day2"):
        _image(folder / day / "a.jpg")
        square = _square("cat", 3, 3, 5)
        del square["shape_type"]  # as version 3 writes it
        content = json.dumps(
            {"imagePath": "..\\other\\a.jpg", "shapes": [{**square, "line_color": None}], "lineColor": []}
        )
        (folder / day / "a.json").write_text(content, encoding="utf-8-sig")
    _annotate(folder / "._a.json", "no.jpg")
    _annotate(folder / ".hidden" / "a.json", "no.jpg")
    voc_dir = _convert_labelme(folder, tmp_path)
    assert set(_masks(voc_dir)) == {"day1/a", "day2/a"}
    assert all((mask == 1).sum() == 36 for mask in _masks(voc_dir).values())
    assert sorted(itertools.chain(*_splits(voc_dir).values())) == ["day1/a", "day2/a"]
    assert (voc_dir / "JPEGImages" / "day2" / "a.jpg").is_file()


def test_an_image_inside_the_annotation(drawn, tmp_path):
    data = base64.b64encode((drawn / "one.png").read_bytes()).decode()
    content = json.loads((drawn / "one.json").read_text())
    _annotate(drawn / "one.json", "one.png", *content["shapes"], imageData=data)
    (drawn / "one.png").unlink()
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert np.array(Image.open(voc_dir / "JPEGImages" / "one.png")).shape == (30, 40, 3)
    _annotate(drawn / "one.json", "one.png", *content["shapes"], imageData="bm8gaW1hZ2U=")
    with pytest.raises(DataError, match=r"one\.json \(imageData\): cannot be read as an image"):
        write_voc(read_labelme(drawn), tmp_path / "other", 0.5)


def test_images_with_another_ending_and_without_a_path(drawn, tmp_path):
    _annotate(drawn / "one.json", "one.JPG", _square("body", 0, 0, 9))
    _annotate(drawn / "two.json", None, _square("body", 0, 0, 9))
    assert set(_masks(_convert_labelme(drawn, tmp_path))) == {"one", "two"}
    _image(drawn / "one.bmp")
    with pytest.raises(DataError, match=r"one\.json: .*one\.bmp and one\.png could be"):
        read_labelme(drawn)


def test_background_void_and_labels_that_look_alike(drawn, tmp_path, caplog):
    squares = [
        _square(label, 5 * number, 0, 4)
        for number, label in enumerate(["cat", "_background_", " cat ", "BACKGROUND", "Cat", "Void", "__ignore__"])
    ]
    _annotate(drawn / "one.json", "one.png", *squares)
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _classes(voc_dir) == ["background", "Cat", "body", "cat"]
    assert _masks(voc_dir)["one"][2, 2::5].tolist() == [3, 0, 3, 0, 1, 255, 255, 0]
    assert "look alike: 'Cat', 'cat'" in caplog.text


def test_exif_turns_as_annotation_tools_show_them(drawn, tmp_path):
    """The stated size decides where it can: labelme's is that of the turned image."""
    _image(drawn / "two.jpg", **_turned(6))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert _masks(voc_dir)["two"].shape == (40, 30)
    assert np.array(Image.open(voc_dir / "JPEGImages" / "two.png")).shape == (40, 30, 3)
    _annotate(drawn / "two.json", "two.jpg", _square("body", 0, 0, 9), imageWidth=40, imageHeight=30)
    write_voc(read_labelme(drawn), tmp_path / "raw", 0.5)
    assert _masks(tmp_path / "raw")["two"].shape == (30, 40)


def test_all_problems_are_reported_and_nothing_is_written(drawn, tmp_path, caplog):
    _annotate(drawn / "a.json", "a.jpg", _square("body", 0, 0, 9))
    _annotate(drawn / "b.json", "b.jpg", _square("body", 0, 0, 9))
    _annotate(drawn / "c.json", "one.png", _shape("x", "cuboid", (0, 0), (1, 1)))
    (drawn / "d.json").write_text("{}")
    (drawn / "e.json").write_text("{")
    _annotate(drawn / "f.json", "one.png", _square("", 0, 0, 9))
    _annotate(drawn / "g.json", "one.png", {"label": "x", "shape_type": "polygon"})
    with pytest.raises(DataError, match=r"e\.json: cannot be read as JSON.*4 problems in all"):
        read_labelme(drawn)
    assert "g.json: not an annotation of labelme (no 'points')" in caplog.text
    with pytest.raises(DataError, match=r"e\.json: cannot be read as JSON.*6 problems in all"):
        read_labelme(drawn, strict=True)
    assert "--strict: 1 cuboid: not a shape of labelme (c.json)" in caplog.text
    assert "--strict: 1 *.json of another tool (d.json)" in caplog.text
    for words in (r"e.json: cannot be read as JSON", "f.json: not an annotation of labelme (the label '' is empty"):
        assert words in caplog.text
    assert f"2 missing files: {drawn / 'a.jpg'} (of a.json), {drawn / 'b.jpg'} (of b.json)" in caplog.text


def test_images_that_do_not_fit_are_reported_and_nothing_is_written(drawn, tmp_path, caplog):
    _annotate(drawn / "one.json", "one.png", _square("body", 0, 0, 9), imageWidth=80, imageHeight=60)
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(drawn / "deep.png")
    _annotate(drawn / "deep.json", "deep.png", _square("body", 0, 0, 9))
    (drawn / "text.jpg").write_text("no image")
    _annotate(drawn / "text.json", "text.jpg", _square("body", 0, 0, 9))
    with pytest.raises(DataError, match="3 problems in all"):
        _convert_labelme(drawn, tmp_path)
    assert "one.png: 40x30 pixels, but its annotation is for 80x60" in caplog.text
    assert "deep.png: 16 bits" in caplog.text
    assert "text.jpg: cannot be read as an image" in caplog.text
    (drawn / "deep.json").unlink()
    (drawn / "text.json").unlink()
    _annotate(drawn / "one.json", "one.png", _square("body", 0, 0, 9))
    content = _image(drawn / "two.jpg", (400, 300)).read_bytes()
    (drawn / "two.jpg").write_bytes(content[: len(content) // 2])  # found only when it is decoded
    with pytest.raises(DataError, match=r"two\.jpg: cannot be read as an image"):
        _convert_labelme(drawn, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn"]


def test_folders_that_cannot_be_used(drawn, tmp_path):
    with pytest.raises(UsageError, match="exists already"):
        write_voc(read_labelme(drawn), drawn, 0.5)
    with pytest.raises(DataError, match="no such folder"):
        read_labelme(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*\.json"):
        read_labelme(tmp_path / "empty")
    _image(tmp_path / "empty" / "a.jpg")
    _annotate(tmp_path / "empty" / "a.json", "a.jpg", _shape("cat", "line", (0, 0), (5, 5)))
    with pytest.raises(DataError, match=r"no \*\.json contains a shape that covers an area"):
        read_labelme(tmp_path / "empty")
    (drawn / "two.json").unlink()
    with pytest.raises(DataError, match="two are needed"):
        _convert_labelme(drawn, tmp_path)
    _annotate(drawn / "two.json", "one.png", _square("body", 0, 0, 9))
    with pytest.raises(DataError, match="same name"):
        _convert_labelme(drawn, tmp_path)


def test_labelme_draws_the_same(tmp_path):
    """By labelme's own code, where it is installed."""
    shape_to_mask = pytest.importorskip("labelme.utils").shape_to_mask
    rng = np.random.default_rng(0)
    folder, truths = tmp_path / "drawn", []
    for number in range(20):
        _image(folder / f"{number}.png", (97, 61))
        kind, count = (("polygon", 7), ("circle", 2), ("rectangle", 2))[number % 3]
        points = rng.uniform(-5, 100, (count, 2))
        _annotate(folder / f"{number}.json", f"{number}.png", _shape("a", kind, *points.tolist()))
        truths.append(
            shape_to_mask((61, 97), points.tolist() if kind != "rectangle" else sorted(points.tolist()), kind)
        )
    masks = _masks(_convert_labelme(folder, tmp_path))
    for number, truth in enumerate(truths):
        np.testing.assert_array_equal(masks[str(number)] == 1, truth)


# COCO


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


# YOLO


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


# Masks


@pytest.fixture
def roboflow(tmp_path):
    folder = tmp_path / "export"
    for split, name in (("train", "a"), ("train", "b"), ("valid", "c"), ("test", "d")):
        _image(folder / split / f"{name}.jpg", (6, 4))
        write_mask(folder / split / f"{name}_mask.png", np.full((4, 6), 3))
        (folder / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, cat\n5, dog\n")
    return folder


def test_roboflows_masks(roboflow, tmp_path):
    write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    assert _classes(tmp_path / "voc") == ["background", "cat", "dog"]
    assert _splits(tmp_path / "voc") == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert all((mask == 1).all() for mask in _masks(tmp_path / "voc").values())


def test_roboflows_masks_that_are_refused(roboflow, tmp_path):
    write_mask(roboflow / "train" / "a_mask.png", np.full((4, 6), 4))
    with pytest.raises(DataError, match=r"a_mask\.png: value 4 without a class in .*_classes\.csv"):
        write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    write_mask(roboflow / "train" / "a_mask.png", np.zeros((4, 7)))
    with pytest.raises(DataError, match=r"a\.jpg: 6x4 pixels, but its annotation is for 7x4"):
        write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    (roboflow / "train" / "a_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 missing file: .*a_mask\.png \(of a\.jpg\)"):
        read_roboflow(roboflow)
    (roboflow / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, dog\n")
    with pytest.raises(DataError, match=r"valid/_classes\.csv: classes differ"):
        read_roboflow(roboflow)


def test_masks_and_images_that_exif_turns(roboflow, tmp_path):
    """A quarter turn is decided by the mask's size; a half turn cannot be decided."""
    _image(roboflow / "train" / "a.jpg", (6, 4), **_turned(6))
    _image(roboflow / "train" / "b.jpg", (4, 6), **_turned(6))
    write_voc(read_roboflow(roboflow), tmp_path / "voc", 0.5)
    assert Image.open(next((tmp_path / "voc" / "JPEGImages").glob("b.*"))).size == (6, 4)
    assert Image.open(next((tmp_path / "voc" / "JPEGImages").glob("a.*"))).size == (6, 4)
    _image(roboflow / "train" / "a.jpg", (6, 4), **_turned(3))
    with pytest.raises(DataError, match=r"a\.jpg: EXIF turns it \(orientation 3\)"):
        write_voc(read_roboflow(roboflow), tmp_path / "other", 0.5)


def test_cityscapes_train_ids_or_ids(tmp_path, caplog):
    folder = tmp_path / "cityscapes"
    ids = np.array([[*CITYSCAPES_CLASSES.values()], [0] * 19, [*range(1, 7), *[33] * 13]], np.uint8)
    expected = np.array([[*range(19)], [255] * 19, [*[255] * 6, *[18] * 13]], np.uint8)
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        stem = f"ulm_{number:06d}_000019"
        _image(folder / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", (19, 3))
        (folder / "gtFine" / split / "ulm").mkdir(parents=True)
        write_mask(folder / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png", ids)
        if split == "val":
            write_mask(folder / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelTrainIds.png", expected)
    write_voc(read_cityscapes(folder), tmp_path / "voc", 0.5)
    assert _splits(tmp_path / "voc") == {"train": ["ulm_000000_000019"], "val": ["ulm_000001_000019"]}
    for mask in _masks(tmp_path / "voc").values():
        np.testing.assert_array_equal(mask, expected)
    assert _classes(tmp_path / "voc") == [*CITYSCAPES_CLASSES]
    assert "left out: 1 test: its labels are not public" in caplog.text


def test_ade20k_has_void_for_0(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        _image(folder / "images" / split / f"ADE_{split}.jpg", (3, 1))
        (folder / "annotations" / split).mkdir(parents=True)
        write_mask(folder / "annotations" / split / f"ADE_{split}.png", [[0, 1, 2]])
    with (folder / "objectInfo150.txt").open("w", newline="") as file:
        rows = [
            ("Idx", "Ratio", "Train", "Val", "Stuff", "Name"),
            (1, 0.2, 1, 1, 1, "wall"),
            (2, 0.1, 1, 1, 1, "building, edifice"),
        ]
        csv.writer(file, dialect="excel-tab").writerows(rows)
    write_voc(read_ade20k(folder), tmp_path / "voc", 0.5)
    assert _classes(tmp_path / "voc") == ["wall", "building"]
    assert _splits(tmp_path / "voc") == {"train": ["ADE_training"], "val": ["ADE_validation"]}
    assert _masks(tmp_path / "voc")["ADE_training"].tolist() == [[255, 0, 1]]
    (folder / "objectInfo150.txt").unlink()
    with pytest.raises(DataError, match="class names of ADE20K"):
        read_ade20k(folder)


# What all formats share


def test_names():
    assert name_in_voc("day1/IMG 1.jpg") == "day1/IMG 1"
    assert name_in_voc("../a/../b.c.png") == "a/b.c"
    assert name_in_voc("C:\\images\\x.jpg") == "x"
    assert name_in_voc("/home/me/x.jpg") == "x"
    assert name_in_voc("https://host/x.jpg") == "x"
    assert [split_name(name) for name in ("valid", "train2017", "Validation", "default")] == [
        "val",
        "train",
        "val",
        "default",
    ]


def test_labels():
    assert clean_label(" cafe\u0301 ") == "café"
    assert clean_label(3) == "3"
    for label in ("", " ", None, True, 1.5, "a\nb"):
        with pytest.raises(ValueError, match="label"):
            clean_label(label)
    assert class_table(["a", "background", "void", "a"]) == (
        ("background", "a"),
        {"background": 0, "a": 1, "void": 255},
    )
    with pytest.raises(DataError, match="256 classes"):
        class_table(map(str, range(255)))


def test_the_result_can_be_prepared(drawn, tmp_path):
    """Also with blanks and an image's ending in a name, and labels that separate columns in a table of classes."""
    for name in ("a b", "c.png"):
        _image(drawn / "day 1" / f"{name}.bmp")
        _annotate(drawn / "day 1" / f"{name}.json", f"{name}.bmp", _square("body: left, #1", 0, 0, 9))
    voc_dir = _convert_labelme(drawn, tmp_path)
    assert read_classes(voc_dir / "class_names.txt").names == ("background", "body", "body_left_1", "wheel")
    pairs = [*voc.pairs(voc_dir, "train"), *voc.pairs(voc_dir, "val")]
    assert sorted(pair.name for pair in pairs) == ["day 1/a b", "day 1/c_png", "one", "two"]
    assert not any(pair.problem for pair in pairs)


def test_labelmap_without_colors_has_vocs(tmp_path):
    """As Datumaro 1.13 writes it for masks that it draws in VOC's colours."""
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    classes = read_classes(tmp_path / "labelmap.txt")
    assert classes.names == ("background", "cat", "dog")
    assert classes.colors == {(0, 0, 0): 0, (128, 0, 0): 1, (0, 128, 0): 2}
