"""Recognizes annotations that were given to the reader of another format, and says how to read them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deeplab.files import read_regular

_SUFFIXES = (".json", ".ndjson", ".jsonl", ".yaml", ".yml", ".xml", ".csv")
_HEAD = 4096
_MAX_FILES = 50
_MAX_BYTES = 4 << 20  # of a file that is read to recognize it


@dataclass(frozen=True)
class Kind:
    """A format of annotations: its name, and the way to read it."""

    name: str
    way: str


_OUTSIDE = "export COCO instances (or masks) from that tool, for --coco_json (or docs/own_data.md)"

COCO = Kind("COCO instances", "--coco_json=FILE --image_dir=FOLDER, or --coco_dir")
_LABELME = Kind("labelme's", "--labelme_dir=FOLDER, the folder of all its *.json")
_YOLO = Kind("a data.yaml of YOLO", "--yolo_yaml=FILE")
_VIA = Kind("a project of VIA", "--via_json=FILE, if it is JSON; of VIA's CSV, export it as JSON")
_LABEL_STUDIO = Kind("Label Studio's JSON", "--label_studio_json=FILE --image_dir=FOLDER")
_PANOPTIC = Kind("COCO panoptic, whose masks are PNGs", "--panoptic_dir=FOLDER, the folder above annotations/")
_SEGMENTS = Kind("a release of Segments.ai", "--segments_json=FILE --image_dir=FOLDER")
_RESULTS = Kind("COCO results, which are predictions", "give the instances file that they answer to")
_OTHER_COCO = Kind("COCO captions or keypoints", "give instances_*.json of the same images")
_DATUMARO = Kind("Datumaro's", "datum convert -i FOLDER -if datumaro -f coco_instances -o coco -- --save-media")
_SUPERVISELY = Kind("Supervisely's JSON", "--supervisely_dir=FOLDER, the project's with meta.json")
_DARWIN = Kind("V7's Darwin JSON", "--darwin_dir=FOLDER, the folder of all its *.json")
_LABELBOX = Kind("Labelbox's export", _OUTSIDE)
_GEOJSON = Kind("GeoJSON, in map coordinates", "draw it into masks first, for example by gdal_rasterize")
_BDD = Kind("Scalabel's or BDD100K's", _OUTSIDE)
_CVAT = Kind("CVAT's XML", "--cvat_xml=FILE, if it is of 'CVAT for images 1.1'")
_VOC_BOXES = Kind("Pascal VOC's XML of boxes", "boxes are no masks; VOC's masks are PNGs in SegmentationClass")
_OLD_LABELME = Kind(
    "LabelMe's old XML",
    "datum convert -i FOLDER -if label_me -f coco_instances -o coco -- --save-media, for --coco_dir",
)
_RLE_TABLE = Kind("a table of run lengths, as Kaggle's", "--rle_csv=FILE --image_dir=FOLDER")
_YOLO_LABELS = Kind("labels of YOLO for one image", "--yolo_yaml=FILE, the data.yaml of all of them")
_ARCHIVE = Kind("a ZIP archive", "unpack it first")
_BOX_TABLE = Kind("a table of boxes", "boxes are no masks: draw outlines, or write masks")


def _entry(values: object) -> dict[str, Any]:
    """The first entry of a list or dictionary, if it is a dictionary; else an empty one."""
    entries = list(values.values()) if isinstance(values, dict) else values
    first = entries[0] if isinstance(entries, list) and entries else None
    return first if isinstance(first, dict) else {}


def _is_panoptic(content: dict[str, Any]) -> bool:
    return "segments_info" in _entry(content.get("annotations"))


_DICTIONARIES: tuple[tuple[Kind, Callable[[dict[str, Any]], bool]], ...] = (
    (_VIA, lambda content: "_via_img_metadata" in content or {"filename", "regions"} <= set(_entry(content))),
    (_VIA, lambda content: {"file", "view", "metadata"} <= set(content)),
    (_LABELME, lambda content: "shapes" in content and "imagePath" in content),
    (_PANOPTIC, _is_panoptic),
    (COCO, lambda content: {"images", "annotations", "categories"} <= set(content)),
    (_OTHER_COCO, lambda content: {"images", "annotations"} <= set(content)),
    (_DATUMARO, lambda content: {"items", "categories"} <= set(content)),
    (_SUPERVISELY, lambda content: {"objects", "size"} <= set(content) or {"classes", "tagMetas"} <= set(content)),
    (_DARWIN, lambda content: {"item", "annotations"} <= set(content)),
    (_SEGMENTS, lambda content: isinstance(content.get("dataset"), dict) and "samples" in content["dataset"]),
    (_LABELBOX, lambda content: "data_row" in content),
    (_GEOJSON, lambda content: content.get("type") == "FeatureCollection"),
    (_YOLO, lambda content: "names" in content and bool({"train", "val", "path", "nc"} & set(content))),
)
_LISTS: tuple[tuple[Kind, Callable[[dict[str, Any]], bool]], ...] = (
    (_LABEL_STUDIO, lambda entry: "data" in entry and bool({"annotations", "completions", "predictions"} & set(entry))),
    (_LABEL_STUDIO, lambda entry: "annotation_id" in entry and "image" in entry),
    (_RESULTS, lambda entry: {"image_id", "category_id"} <= set(entry)),
    (_LABELBOX, lambda entry: "data_row" in entry or "Labeled Data" in entry),
    (_BDD, lambda entry: {"name", "labels"} <= set(entry)),
    (_LABELME, lambda entry: "shapes" in entry and "imagePath" in entry),
)
# A header of a table has no brackets, unlike JSON that was cut short.
_TEXTS: tuple[tuple[Kind, str], ...] = (
    (_ARCHIVE, r"\APK\x03\x04"),
    (_YOLO_LABELS, r"\A\d+( [\d.]+){4,}\s*$"),
    (_CVAT, r"<annotations>.*<(meta|version|image|track)\b"),
    (_OLD_LABELME, r"<annotation>.*<polygon>"),
    (_VOC_BOXES, r"<annotation\b.*<(folder|filename|object|size)>"),
    (_RLE_TABLE, r"\A(?=[^\n]*,)[^\n{\[]*\b(EncodedPixels|segmentation|rle)\b"),
    (_VIA, r"\A#?filename,[^\n]*region_shape_attributes"),
    (_BOX_TABLE, r"\A(?=[^\n]*,)[^\n{\[]*\bxmin\b"),
)


def kind_of(content: Any) -> Kind | None:  # noqa: ANN401
    """The format of the content of a JSON or YAML file; None if it is not known."""
    if isinstance(content, dict):
        return next((kind for kind, fits in _DICTIONARIES if fits(content)), None)
    entry = _entry(content)
    return next((kind for kind, fits in _LISTS if fits(entry)), None)


def recognized(path: Path) -> str:
    """The end of an error message: what the file, or the first known file below the folder, is, and the way to read it.

    Empty if nothing is known.
    """
    files = [path] if path.is_file() else islice(_below(path), _MAX_FILES)
    for file in files:
        if kind := kind_of_file(file):
            which = "it" if file == path else str(file)
            return f"; {which} looks like {kind.name}: {kind.way}"
    return ""


def _below(folder: Path) -> list[Path]:
    found = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(file for file in found if file.suffix.lower() in _SUFFIXES and file.is_file())


def kind_of_file(path: Path) -> Kind | None:
    """The format of a file; None if it is not known, or the file cannot be read."""
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return None
    try:
        return kind_of(json.loads(text))
    except (ValueError, RecursionError):
        lines = text[:_HEAD]
    if path.suffix.lower() in (".yaml", ".yml"):
        return _YOLO if re.search(r"^names\s*:", lines, re.MULTILINE) else None
    try:  # one JSON object per line
        return kind_of(json.loads(text.partition("\n")[0]))
    except (ValueError, RecursionError):
        pattern = re.DOTALL | re.MULTILINE | re.IGNORECASE
        return next((kind for kind, words in _TEXTS if re.search(words, lines, pattern)), None)
