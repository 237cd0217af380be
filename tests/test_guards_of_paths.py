"""Annotations name files in the folders that the user gave, and nowhere else unless a flag says so."""

import json

import pytest
from PIL import Image

from deeplab.commands import convert
from deeplab.data.source.bounds import Bounds
from deeplab.errors import DataError

OUTLINE = {"label": "cat", "points": [[1, 1], [8, 1], [8, 8]], "shape_type": "polygon"}


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10), "red").save(path)


def _read(allow_outside=False, **source):
    options = {name: source.pop(name) for name in ("image_dir",) if name in source}
    reading = convert.ReadingSettings(allow_outside=allow_outside)
    return convert.read(convert.SourceSettings(**source), reading, convert.CocoSettings(**options))


def _line(**flags):
    """What the converter raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        _read(**flags)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.fixture
def private(tmp_path):
    """A picture beside the data set."""
    _image(tmp_path / "private" / "diary.png")
    (tmp_path / "set").mkdir()
    return tmp_path / "private" / "diary.png"


def _labelme(tmp_path, image_path):
    content = {"shapes": [OUTLINE], "imagePath": str(image_path), "imageWidth": 10, "imageHeight": 10}
    (tmp_path / "set" / "a.json").write_text(json.dumps(content))
    return {"labelme_dir": tmp_path / "set"}


def _coco(tmp_path, file_name):
    image = {"id": 1, "file_name": str(file_name), "width": 10, "height": 10}
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 8, 1, 8, 8]]}
    content = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return {"coco_json": tmp_path / "set.json", "image_dir": tmp_path / "set"}


def _as_written(private):
    return private


def _upwards(private):
    return "../private/diary.png"


def _link(private):
    (private.parents[1] / "set" / "link.png").symlink_to(private)
    return "link.png"


@pytest.mark.parametrize("name", [_as_written, _upwards, _link])
def test_a_labelme_file_names_only_pictures_of_its_folder(tmp_path, private, name):
    flags = _labelme(tmp_path, name(private))
    assert _line(**flags).endswith(
        f".png is outside {tmp_path}/set; give a folder that holds the whole data set, or, if you trust it, "
        "--allow_outside"
    )
    (example,) = _read(**flags, allow_outside=True).examples
    assert example.image.resolve() == private


@pytest.mark.parametrize("name", [_as_written, _link])
def test_a_coco_file_names_only_pictures_of_its_folders(tmp_path, private, name):
    pytest.importorskip("pycocotools")
    (tmp_path / "annotations").mkdir()
    flags = _coco(tmp_path, name(private))
    flags["coco_json"] = flags["coco_json"].rename(tmp_path / "annotations" / "set.json")
    assert f".png is outside {tmp_path}/annotations and {tmp_path}/set; give" in _line(**flags)
    (example,) = _read(**flags, allow_outside=True).examples
    assert example.image.resolve() == private


def test_a_mask_behind_a_link_is_refused(tmp_path, private):
    _image(tmp_path / "set" / "train" / "a.jpg")
    (tmp_path / "set" / "train" / "a_mask.png").symlink_to(private)
    (tmp_path / "set" / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n")
    assert "example a: a_mask.png is outside" in _line(roboflow_dir=tmp_path / "set")


def test_the_folder_itself_may_be_a_link(tmp_path):
    _image(tmp_path / "set" / "a.png")
    flags = _labelme(tmp_path, "a.png")
    (tmp_path / "link").symlink_to(flags["labelme_dir"])
    assert len(_read(labelme_dir=tmp_path / "link").examples) == 1


def _yolo(folder, text):
    _image(folder / "train" / "images" / "a.png")
    (folder / "train" / "labels").mkdir()
    (folder / "train" / "labels" / "a.txt").write_text("0 0 0 1 0 1 1\n")
    (folder / "data.yaml").write_text(f"{text}\nnames: [cat]\n")
    return folder / "data.yaml"


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images",  # Roboflow's
        "path: ../set\ntrain: train/images",  # from a folder beside it, which is itself
        "path: ../datasets/set\ntrain: train/images",  # where Ultralytics would download it, which is not there
        "path: {0}\ntrain: train/images",
    ],
)
def test_usual_forms_of_a_data_yaml_stay_in_its_folder(tmp_path, text):
    pytest.importorskip("yaml")
    _image(tmp_path / "train" / "images" / "of_another_set.png")
    path = _yolo(tmp_path / "set", text.format(tmp_path / "set"))
    (example,) = _read(yolo_yaml=path).examples
    assert example.image.resolve() == tmp_path / "set" / "train" / "images" / "a.png"


@pytest.mark.parametrize(
    "text", ["train: ../other/train/images", "path: ../other\ntrain: train/images", "path: {0}\ntrain: train/images"]
)
def test_a_data_yaml_that_leads_elsewhere_needs_the_flag(tmp_path, text):
    pytest.importorskip("yaml")
    _yolo(tmp_path / "other", "train: train/images")
    path = _yolo(tmp_path / "set", text.format(tmp_path / "other"))
    assert f"data.yaml: images is outside {tmp_path}/set; give" in _line(yolo_yaml=path)
    (example,) = _read(yolo_yaml=path, allow_outside=True).examples
    assert example.image.resolve() == tmp_path / "other" / "train" / "images" / "a.png"


@pytest.mark.parametrize("place", ["labels/a.txt", "list.txt"])
def test_no_line_of_a_text_file_elsewhere_is_shown(tmp_path, place):
    pytest.importorskip("yaml")
    (tmp_path / "secret.txt").write_text("root:hunter2:0\n")
    path = _yolo(tmp_path / "set", "train: train/list.txt" if place == "list.txt" else "train: train/images")
    linked = tmp_path / "set" / "train" / place
    linked.unlink(missing_ok=True)
    linked.symlink_to(tmp_path / "secret.txt")
    line = _line(yolo_yaml=path)
    assert f"{linked.name} is outside {tmp_path}/set" in line
    assert "hunter2" not in line


def test_pictures_named_by_a_list_of_yolo(tmp_path, private):
    pytest.importorskip("yaml")
    path = _yolo(tmp_path / "set", "train: list.txt")
    (tmp_path / "set" / "list.txt").write_text(f"{private}\n")
    assert f"diary.png is outside {tmp_path}/set" in _line(yolo_yaml=path)


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert Bounds((tmp_path,)).hold(tmp_path / "a")
    assert not Bounds((tmp_path / "set",)).hold(tmp_path / "a")
