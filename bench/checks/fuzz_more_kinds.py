"""More kinds of files that fuzz.py changes: annotations of CVAT, Label Studio and others, and files of weights."""

import base64
import functools
import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import mutations
import numpy as np
from fuzz_kinds import Kind, annotation
from PIL import Image

from deeplab.model.backbone import family_of_weights
from deeplab.model.published.files import read_tensors

_OUTLINE = ((1, 1), (20, 1), (20, 15))


def more_annotation_kinds(folder: Path) -> dict[str, Kind]:
    """Annotations of the tools that draw more than outlines, each with an image or two beside them."""
    texts: dict[str, tuple[str, Any, str]] = {
        "Label Studio": ("a.json", _label_studio(), "label_studio_json"),
        "VIA 2": ("a.json", _via_2(), "via_json"),
        "VIA 3": ("a.json", _via_3(), "via_json"),
        "Darwin": ("a.json", _darwin(), "darwin_dir"),
    }
    kinds = {}
    for name, (file, content, flag) in texts.items():
        value = "" if flag.endswith("_dir") else file
        kinds[name] = annotation(
            folder / name.replace(" ", "_"), file, json.dumps(content), mutations.of_json, **{flag: value}
        )
    table = "ImageId,ClassId,EncodedPixels\na.jpg,cat,1 2 6 1\na.jpg,dog,30 7\nb.jpg,cat,\n"
    kinds["run lengths"] = annotation(folder / "runs", "a.csv", table, mutations.of_text, rle_csv="a.csv")
    cvat = (
        '<annotations><version>1.1</version><image id="0" name="a.jpg" width="30" height="20">'
        '<polygon label="cat" points="1,1;20,1;20,15" z_order="0"></polygon>'
        '<box label="dog" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30"></box>'
        '<ellipse label="cat" cx="9" cy="9" rx="3" ry="4"></ellipse>'
        '<mask label="dog" rle="2, 3, 1" left="1" top="1" width="3" height="2"></mask></image></annotations>'
    )
    kinds["CVAT"] = annotation(folder / "cvat", "a.xml", cvat, mutations.of_text, cvat_xml="a.xml")
    return kinds | _supervisely_kinds(folder)


def _label_studio() -> list[dict[str, Any]]:
    values = (
        {"points": _OUTLINE, "polygonlabels": ["cat"]},
        {"x": 1, "y": 1, "width": 50, "height": 50, "rotation": 30, "rectanglelabels": ["dog"]},
        {"x": 50, "y": 50, "radiusX": 9, "radiusY": 5, "ellipselabels": ["cat"]},
    )
    size = {"original_width": 30, "original_height": 20, "image_rotation": 0}
    results = [{"id": str(n), "type": "x", "value": value, **size} for n, value in enumerate(values)]
    return [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"id": 1, "created_at": "x", "result": results}]}]


def _via_2() -> dict[str, Any]:
    xs, ys = zip(*_OUTLINE, strict=True)
    shapes = (
        {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
        {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5},
        {"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 3, "theta": 0.5},
    )
    regions = [{"shape_attributes": each, "region_attributes": {"label": {"cat": True}}} for each in shapes]
    return {"_via_img_metadata": {"a.jpg5": {"filename": "a.jpg", "size": 5, "regions": regions}}}


def _via_3() -> dict[str, Any]:
    metadata = {
        "m": {"vid": "1", "xy": [2, 1, 1, 5, 5], "av": {"1": "0"}},
        "n": {"vid": "1", "xy": [7, 1, 1, 9, 1, 9, 9], "av": {"1": "1"}},
    }
    return {
        "attribute": {"1": {"aname": "label", "options": {"0": "cat", "1": "dog"}}},
        "file": {"1": {"fid": "1", "fname": "a.jpg"}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": metadata,
    }


def _darwin() -> dict[str, Any]:
    path = [{"x": x, "y": y} for x, y in _OUTLINE]
    ellipse = {"angle": 0.5, "center": {"x": 9, "y": 9}, "radius": {"x": 4, "y": 3}}
    layer = {"dense_rle": [0, 500, 1, 100], "mask_annotation_ids_mapping": {"m": 1}}
    slot = {"slot_name": "0", "width": 30, "height": 20}
    return {
        "item": {"name": "a.jpg", "path": "/", "slots": [slot]},
        "annotations": [
            {"id": "1", "name": "cat", "polygon": {"paths": [path]}, "bounding_box": {}},
            {"id": "2", "name": "dog", "bounding_box": {"x": 1, "y": 1, "w": 5, "h": 5}},
            {"id": "3", "name": "dog", "ellipse": ellipse},
            {"id": "m", "name": "cat", "mask": {"sparse_rle": None}},
            {"id": "4", "name": "__raster_layer__", "raster_layer": layer},
        ],
    }


def _supervisely_kinds(folder: Path) -> dict[str, Kind]:
    """An annotation of a project, and the classes of both its forms."""
    png = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(png, "PNG")
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": _OUTLINE, "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [1, 1]}},
    ]
    classes = [{"title": name, "shape": "any"} for name in ("cat", "dog")]
    kind = annotation(folder / "project", "meta.json", json.dumps({"classes": classes}), supervisely_dir="")
    for name in ("img", "ann"):
        (folder / "project" / "ds" / name).mkdir(parents=True)
    shutil.copy(folder / "project" / "a.jpg", folder / "project" / "ds" / "img")
    path = folder / "project" / "ds" / "ann" / "a.jpg.json"
    path.write_text(json.dumps({"size": {"width": 30, "height": 20}, "tags": [], "objects": objects}))
    colors = "cat 1 2 3\ndog 250 50 83\nneutral 224 224 192\n"
    export = annotation(folder / "voc_export", "colors.txt", colors, mutations.of_text, supervisely_dir="")
    for name in ("JPEGImages", "SegmentationObject"):
        (folder / "voc_export" / name).mkdir()
    shutil.copy(folder / "voc_export" / "a.jpg", folder / "voc_export" / "JPEGImages")
    mask = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    mask.save(folder / "voc_export" / "SegmentationObject" / "a_instance.png")
    return {
        "Supervisely": Kind(path, kind.read, mutations.of_json),
        "Supervisely, meta.json": kind,
        "Supervisely, colors.txt": export,
    }


def weight_kinds(folder: Path) -> dict[str, Kind]:
    """A .pth, and what its pickle says. Not HDF5: on damaged files its library may run without end."""
    torch = folder / "a.pth"
    pickled = (
        b"}U\x05model}U\x01xctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x08tQ"
        b"K\x00(K\x02K\x04t(K\x04K\x01ttRss."
    )
    torch.write_bytes(_archive(pickled))
    in_pickle = folder / "b.pth"
    shutil.copy(torch, in_pickle)

    def read_torch(path: Path) -> list[object]:
        return [family_of_weights(str(path)), *_plain(read_tensors(path))]

    return {
        ".pth": Kind(torch, functools.partial(read_torch, torch)),
        ".pth, pickle": Kind(
            in_pickle,
            functools.partial(read_torch, in_pickle),
            lambda _, rng: _archive(mutations.of_bytes(pickled, rng)),
        ),
    }


def _archive(pickled: bytes) -> bytes:
    """A file of torch.save with a storage of eight numbers."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.arange(8, dtype="<f4").tobytes())
    return content.getvalue()


def _plain(tensors: dict[str, np.ndarray]) -> list[tuple]:
    return [(name, each.dtype.str, each.shape, each.tobytes()) for name, each in sorted(tensors.items())]


def more_kinds(folder: Path) -> dict[str, Kind]:
    """All of these, in a folder with what `write_shards` in fuzz_kinds.py writes."""
    return more_annotation_kinds(folder) | weight_kinds(folder)
