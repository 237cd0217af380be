"""What does not belong to a data set does not stop it: left out, counted and named; by --strict an error.

And annotations given to the reader of another format are recognized, with the way to read them.
"""

import json

import numpy as np
import pytest
from conftest import SHARED_DATA
from PIL import Image

from deeplab.data.source.formats.coco import InstancesFile, instances_files, read_coco
from deeplab.data.source.formats.labelme import read_labelme
from deeplab.data.source.formats.masks import read_roboflow
from deeplab.data.source.formats.writer import write_voc
from deeplab.data.source.formats.yolo import read_yolo
from deeplab.errors import DataError

REPORTS = SHARED_DATA.parent / "reports"
SQUARE = [[5, 5], [17, 5], [17, 17], [5, 17]]


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), "teal").save(path)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _labelme(path, image, *shapes, label="car"):
    shapes = shapes or ({"label": label, "points": SQUARE, "shape_type": "polygon"},)
    _write(path, {"shapes": list(shapes), "imagePath": image, "imageData": None, "imageHeight": 40, "imageWidth": 60})


def _coco(path, annotations=(), images=2):
    for number in range(images):
        _image(path.parent / f"{number}.jpg")
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(images)],
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "segmentation": [np.ravel(SQUARE).tolist()]},
            *annotations,
        ],
    }
    return _write(path, content)


@pytest.fixture
def drawn(tmp_path):
    """Two annotated images of 60x40."""
    for name in "ab":
        _image(tmp_path / "drawn" / f"{name}.jpg")
        _labelme(tmp_path / "drawn" / f"{name}.json", f"{name}.jpg")
    return tmp_path / "drawn"


def _written(dataset, tmp_path):
    write_voc(dataset, tmp_path / "voc", 0.5)
    masks = sorted((tmp_path / "voc" / "SegmentationClass").rglob("*.png"))
    return {path.stem: np.array(Image.open(path)) for path in masks}


def _lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# labelme


@pytest.mark.parametrize("path", ["..\\images\\{}.jpg", "../images/{}.jpg", "../images/../images/{}.jpg"])
def test_images_in_another_folder_are_in_use(tmp_path, caplog, path):
    folder = tmp_path / "set"
    for name in "abc":
        _image(folder / "images" / f"{name}.jpg")
    for name in "ab":
        _labelme(folder / "annotations" / f"{name}.json", path.format(name))
    dataset = read_labelme(folder)
    assert dataset.left_out == {"image without a *.json": ["images/c.jpg"]}
    masks = _written(dataset, tmp_path)
    assert [(mask == 1).sum() for mask in masks.values()] == [13 * 13] * 2
    with pytest.raises(DataError, match=r"--strict: 1 image without a \*\.json \(images/c\.jpg\)"):
        read_labelme(folder, strict=True)
    (folder / "images" / "c.jpg").unlink()
    assert read_labelme(folder, strict=True).left_out == {}


def test_an_image_annotated_under_two_paths_is_refused(tmp_path):
    _image(tmp_path / "set" / "a.jpg")
    _image(tmp_path / "set" / "b.jpg")
    _labelme(tmp_path / "set" / "a.json", "a.jpg")
    _labelme(tmp_path / "set" / "b.json", "b.jpg")
    _labelme(tmp_path / "set" / "more" / "a.json", "..\\a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: annotated twice, as a and more/a"):
        write_voc(read_labelme(tmp_path / "set"), tmp_path / "voc", 0.5)


OTHER_TOOLS = {
    "via.json": ({"_via_settings": {}, "_via_img_metadata": {}}, "a project of VIA"),
    "coco.json": ({"images": [], "annotations": [], "categories": []}, "COCO instances"),
    "list.json": ([1, 2], None),
    "rows.json": ('{"data_row": {}}\n{"data_row": {}}\n', "Labelbox's export"),
    "settings.json": ({"editor.fontSize": 12}, None),
}


@pytest.mark.parametrize("name", OTHER_TOOLS)
def test_a_json_of_another_tool_is_left_out_and_named(drawn, tmp_path, caplog, name):
    content, kind = OTHER_TOOLS[name]
    _write(drawn / name, content)
    dataset = read_labelme(drawn)
    named = f"{name}: {kind}" if kind else name
    assert dataset.left_out == {"*.json of another tool": [named]}
    assert sorted(_written(dataset, tmp_path)) == ["a", "b"]
    assert f"left out: 1 *.json of another tool ({named})" in _lines(caplog)


def test_a_shape_that_labelme_does_not_have_is_left_out(drawn, tmp_path, caplog):
    square = {"label": "car", "points": SQUARE, "shape_type": "polygon"}
    cuboid = {"label": "truck", "points": SQUARE * 2, "shape_type": "cuboid"}
    _labelme(drawn / "a.json", "a.jpg", cuboid, square, {"label": "x", "shape_type": "cuboid", "points": None})
    masks = _written(read_labelme(drawn), tmp_path)
    assert (masks["a"] == masks["b"]).all()
    assert (tmp_path / "voc" / "class_names.txt").read_text() == "background\ncar\n"
    assert "left out: 2 cuboid: not a shape of labelme (a.json)" in _lines(caplog)
    with pytest.raises(DataError, match=r"--strict: 2 cuboid: not a shape of labelme \(a\.json\); nothing was written"):
        read_labelme(drawn, strict=True)
    _labelme(drawn / "a.json", "a.jpg", cuboid)
    _labelme(drawn / "b.json", "b.jpg", cuboid)
    with pytest.raises(DataError, match=r"no \*\.json contains a shape .*; left out: 2 cuboid: not a shape"):
        read_labelme(drawn)


def test_labels_that_lose_characters_are_said_with_what_they_became(drawn, tmp_path, caplog):
    shapes = [
        {"label": label, "points": SQUARE, "shape_type": "polygon"} for label in ("car: red", "car#red", "b,c", "dog")
    ]
    _labelme(drawn / "a.json", "a.jpg", *shapes)
    _written(read_labelme(drawn), tmp_path)
    assert (tmp_path / "voc" / "class_names.txt").read_text().split() == ["background", "b_c", "car", "car_red", "dog"]
    said = [line for line in _lines(caplog) if "became" in line]
    assert said == [
        "'car: red' and 'car#red' became the class 'car_red': names of classes cannot have : , # { or }",
        "'b,c' became the class 'b_c': names of classes cannot have : , # { or }",
    ]


def test_a_folder_called_like_a_file_is_left_alone(drawn, tmp_path):
    (drawn / "old.json").mkdir()
    assert sorted(_written(read_labelme(drawn), tmp_path)) == ["a", "b"]


# COCO


def test_an_annotation_of_an_unknown_image_is_left_out(tmp_path, caplog):
    pytest.importorskip("pycocotools")
    stray = {"id": 5, "image_id": 55, "category_id": 7, "segmentation": [np.ravel(SQUARE).tolist()]}
    files = [InstancesFile(_coco(tmp_path / "set" / "coco.json", [stray]), tmp_path / "set")]
    masks = _written(read_coco(files), tmp_path)
    assert {name: int((mask == 1).sum()) for name, mask in masks.items()} == {"0": 144, "1": 0}
    assert "left out: 1 annotation of an unknown image (annotation 5 of image 55)" in _lines(caplog)
    with pytest.raises(DataError, match="--strict: 1 annotation of an unknown image"):
        read_coco(files, strict=True)


def test_two_images_of_one_id_are_named(tmp_path):
    pytest.importorskip("pycocotools")
    path = _coco(tmp_path / "coco.json")
    content = json.loads(path.read_text())
    content["images"].append({"id": 1, "file_name": "other.jpg"})
    _write(path, content)
    with pytest.raises(DataError, match=r"coco\.json: two images have the id 1: 1\.jpg and other\.jpg"):
        read_coco([InstancesFile(path, tmp_path)])


def test_stray_files_beside_those_of_coco_are_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    _coco(tmp_path / "set" / "annotations" / "train.json").parent.rename(tmp_path / "set" / "images")
    (tmp_path / "set" / "annotations").mkdir()
    (tmp_path / "set" / "images" / "train.json").rename(tmp_path / "set" / "annotations" / "train.json")
    info = _write(tmp_path / "set" / "annotations" / "info.json", {"author": "x"})
    dataset = read_coco(instances_files(tmp_path / "set"))
    assert len(dataset.examples) == 2
    assert dataset.left_out == {"*.json that is not COCO's instances": [str(info)]}
    _coco(tmp_path / "export" / "train" / "_annotations.coco.json")
    _write(tmp_path / "export" / "train" / "info.json", {"author": "x"})
    assert [file.path.name for file in instances_files(tmp_path / "export")] == ["_annotations.coco.json"]


# YOLO


def _yolo(folder, names):
    for name in "ab":
        _image(folder / "images" / f"{name}.jpg")
        _write(folder / "labels" / f"{name}.txt", "1 0 0 0.49 0 0.49 0.97 0 0.97\n")
    return _write(folder / names[0], names[1])


@pytest.mark.parametrize(
    "names",
    [
        ("data.yaml", "names:\n- cat\n- dog\nnc: 2\n"),  # supervision's
        ("data.yaml", "train: images\nval: ''\nnames: [cat, dog]\n"),
        ("data.yaml", "train: images\nval:\nnames: [cat, dog]\n"),
        ("classes.txt", "cat\ndog\n"),  # Label Studio's
    ],
)
def test_yolo_without_splits_has_its_images_in_images(tmp_path, names):
    pytest.importorskip("yaml")
    path = _yolo(tmp_path / "set", names)
    masks = _written(read_yolo(path), tmp_path)
    assert {name: int((mask == 2).sum()) for name, mask in masks.items()} == {"a": 30 * 39, "b": 30 * 39}
    if path.name == "classes.txt":
        assert read_yolo(path.parent).class_names == ("background", "cat", "dog")


def test_yolo_without_images_says_what_to_add(tmp_path):
    pytest.importorskip("yaml")
    path = _write(tmp_path / "set" / "data.yaml", "names: [cat]\n")
    with pytest.raises(DataError, match=r"data\.yaml: no images; add a line such as `train: images`, the folder of"):
        read_yolo(path)


# Annotations of another format

VIA_REGION = {"filename": "a.jpg", "size": 1, "regions": [{"shape_attributes": {}}], "file_attributes": {}}
SEGMENTS = {"image_id": 0, "file_name": "0.png", "segments_info": [{"id": 1, "category_id": 1}]}
GIVEN = {
    "via.json": ({"a.jpg1": VIA_REGION}, "a project of VIA: --via_json=FILE"),
    "label_studio.json": (
        [{"id": 1, "data": {"image": "x"}, "annotations": []}],
        "Label Studio's JSON: --label_studio_json=FILE",
    ),
    "label_studio_min.json": ([{"image": "x", "tag": [], "annotation_id": 3}], "Label Studio's JSON"),
    "panoptic.json": (
        {"images": [], "annotations": [SEGMENTS], "categories": []},
        "COCO panoptic, whose masks are PNGs: --panoptic_dir=FOLDER",
    ),
    "results.json": ([{"image_id": 1, "category_id": 2, "score": 1}], "COCO results, which are predictions"),
    "captions.json": ({"images": [], "annotations": [{"caption": "x"}]}, "COCO captions or keypoints"),
    "datumaro.json": ({"info": {}, "categories": {}, "items": []}, "Datumaro's: datum convert"),
    "supervisely.json": ({"size": {"width": 1}, "objects": []}, "Supervisely's JSON"),
    "map.json": ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    "labelme.json": ({"shapes": [], "imagePath": "a.jpg"}, "labelme's: --labelme_dir=FOLDER"),
    "export.ndjson": ('{"data_row": {}}\n{"data_row": {}}\n', "Labelbox's export"),
    "annotations.xml": (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>',
        "CVAT's XML: --cvat_xml=FILE",
    ),
    "old.xml": ("<annotation><filename>a.jpg</filename><object><polygon>", "LabelMe's old XML: datum convert"),
    "voc.xml": ("<annotation>\n<folder>a</folder><object><bndbox>", "Pascal VOC's XML of boxes"),
    "train.csv": ("ImageId,EncodedPixels\n0.jpg,1 3 10 5\n", "a table of run lengths, as Kaggle's: --rle_csv=FILE"),
    "via.csv": (
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes\n",
        "a project of VIA",
    ),
    "a.txt": ("0 0.1 0.2 0.3 0.4 0.5 0.6\n", "labels of YOLO for one image: --yolo_yaml=FILE"),
    "set.zip": ("PK\x03\x04\0\0", "a ZIP archive: unpack it first"),
    "boxes.csv": ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_for_coco_is_recognized(tmp_path, name):
    pytest.importorskip("pycocotools")
    content, words = GIVEN[name]
    path = _write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"{name}: .*; it looks like {words}"):
        read_coco([InstancesFile(path, tmp_path)])


@pytest.mark.parametrize("name", [name for name in GIVEN if not name.endswith((".ndjson", ".csv", ".zip"))])
def test_what_is_given_for_yolo_is_recognized(tmp_path, name):
    pytest.importorskip("yaml")
    content, words = GIVEN[name]
    path = _write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"{name}: .*; it looks like {words}"):
        read_yolo(path)


@pytest.mark.parametrize("name", [name for name in GIVEN if not name.endswith((".txt", ".zip"))])
def test_a_folder_without_annotations_of_labelme_is_recognized(tmp_path, name):
    if name == "labelme.json":
        pytest.skip("its own")
    content, words = GIVEN[name]
    _write(tmp_path / "set" / "more" / name, content)
    _image(tmp_path / "set" / "a.jpg")
    with pytest.raises(DataError, match=rf"no \*\.json contains a shape.*; \S*{name} looks like {words}"):
        read_labelme(tmp_path / "set")


def test_data_for_yolo_is_recognized_wherever_it_is_given(tmp_path):
    pytest.importorskip("pycocotools")
    _write(tmp_path / "set" / "data.yaml", "train: images\nnames:\n  0: car\n")
    for read in (read_labelme, read_roboflow, lambda folder: read_coco(instances_files(folder))):
        with pytest.raises(DataError, match=r"data\.yaml looks like a data\.yaml of YOLO: --yolo_yaml=FILE"):
            read(tmp_path / "set")
    with pytest.raises(DataError, match=r"set: a folder, not a JSON file; .*data\.yaml looks like"):
        read_coco([InstancesFile(tmp_path / "set", tmp_path)])
    with pytest.raises(DataError, match=r"set: a folder, not a data\.yaml; .*data\.yaml looks like"):
        read_yolo(tmp_path / "set")


def test_json_that_was_cut_short_is_damaged_and_nothing_else(tmp_path, drawn):
    pytest.importorskip("pycocotools")
    path = _coco(tmp_path / "coco.json")
    path.write_text(path.read_text()[:-1])
    with pytest.raises(DataError, match=r"coco\.json: cannot be read as JSON: Expecting.*\)$"):
        read_coco([InstancesFile(path, tmp_path)])
    _labelme(drawn / "a.json", "a.jpg", label="rle")
    (drawn / "a.json").write_text((drawn / "a.json").read_text()[:-1])
    with pytest.raises(DataError, match=r"a\.json: cannot be read as JSON: Expecting"):
        read_labelme(drawn)


def test_what_nobody_knows_is_not_guessed(tmp_path):
    pytest.importorskip("pycocotools")
    path = _write(tmp_path / "a.json", {"a": 1})
    with pytest.raises(DataError) as error:
        read_coco([InstancesFile(path, tmp_path)])
    assert str(error.value) == f"{path}: not COCO's instances: no list 'images'"


# Reports of users


@pytest.mark.parametrize(
    ("name", "line"),
    [("lm_win", None), ("lm_new", "left out: 1 cuboid: not a shape of labelme (a0.json)")],
)
def test_reports_of_users(tmp_path, caplog, name, line):
    if not (REPORTS / name).exists():
        pytest.skip(f"needs {REPORTS / name}")
    assert len(_written(read_labelme(REPORTS / name), tmp_path)) == 3
    assert [found for found in _lines(caplog) if "left out" in found] == ([line] if line else [])
