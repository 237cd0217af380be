"""COCO's instances files: categories, images, and objects by outlines, run lengths or boxes."""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab.data.source.formats.boxes import BoxRule
from deeplab.data.source.formats.coco_masks import CocoObject, draw, pycocotools_mask
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    check_number,
    class_table,
    known_split,
    name_in_voc,
    read_json,
    split_folders,
    visible,
)
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.recognition import COCO, kind_of, recognized
from deeplab.data.source.images import MAX_PIXELS
from deeplab.errors import DataError, shortened

_ROBOFLOW_FILE = "_annotations.coco.json"

Entry = dict[str, Any]  # of one of the file's lists


@dataclass(frozen=True)
class InstancesFile:
    """A COCO JSON file.

    Attributes:
        path: the file.
        image_dir: the folder that its file names are relative to.
        split: the split of its images, or ''.
        is_named: whether the user or its name says that it is one, so that anything else in it is an error.
    """

    path: Path
    image_dir: Path
    split: str = ""
    is_named: bool = True


@dataclass(frozen=True)
class _Content:
    """One file, checked: labels by category, images by id, and the objects of each image by the image's id."""

    file: InstancesFile
    labels: dict[Any, str]
    images: dict[Any, Entry]
    objects: dict[Any, list[CocoObject]]


def read_coco(files: list[InstancesFile], boxes: str | None = None, strict: bool = False) -> Dataset:
    """The images and objects of COCO files; their category names are the classes; smaller objects lie in front.

    Crowds are drawn like other objects. Pixels are in memory for one image at a time.

    Args:
        files: one, or one per split.
        boxes: the meaning of a box without an outline, one of `boxes.MEANINGS`; None refuses such objects.
        strict: refuse what would be left out.

    Raises:
        DataError: unreadable files, unknown categories, missing images, boxes if `boxes` is None.
        UsageError: pycocotools is not installed.
    """
    pycocotools_mask()
    findings = Findings(strict)
    rule = BoxRule(boxes, findings)
    contents = []
    for file in files:
        content = read_json(file.path)
        reason = _no_instances(content)
        if not reason:
            contents.append(_read_content(file, content, rule, findings))
        elif file.is_named:
            raise DataError(f"{file.path}: not COCO's instances: {reason}{recognized(file.path)}")
        else:
            findings.omit("*.json that is not COCO's instances", str(file.path))
    num_objects = sum(len(objects) for content in contents for objects in content.objects.values())
    rule.check(num_objects)
    class_names, indices = class_table(sorted({label for content in contents for label in content.labels.values()}))
    examples = [example for content in contents for example in _examples(content, indices, findings)]
    findings.raise_if_any()
    if not num_objects:
        raise no_area(", ".join(str(file.path) for file in files), findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def instances_files(folder: Path) -> list[InstancesFile]:
    """The files of a COCO data set: a JSON in each of train/, valid/ and test/ (Roboflow), or annotations/*.json.

    The images are in the folder of the JSON; or, for annotations/instances_NAME.json, in images/NAME, NAME, or images.

    Raises:
        DataError: neither exists.
    """
    files = []
    for split, subfolder in split_folders(folder).items():
        found = visible(subfolder, _ROBOFLOW_FILE) or visible(subfolder, "*.json")
        if len(found) > 1:
            raise DataError(f"{subfolder}: {len(found)} *.json; choose one with --coco_json")
        files += [InstancesFile(path, subfolder, split) for path in found]
    if files:
        return files
    listed = visible(folder, "annotations/*.json")
    # COCO's own folder also has captions_*.json and person_keypoints_*.json.
    for path in [path for path in listed if path.name.startswith("instances_")] or listed:
        name = path.stem.removeprefix("instances_")
        places = (folder / "images" / name, folder / name, folder / "images", folder)
        image_dir = next(place for place in places if place.is_dir())
        files.append(InstancesFile(path, image_dir, known_split(name), is_named=path.stem != name or len(listed) == 1))
    if not files:
        raise DataError(f"{folder}: contains neither train/*.json nor annotations/*.json{recognized(folder)}")
    return files


def _no_instances(content: Any) -> str:  # noqa: ANN401
    """Why the content of a JSON file is not COCO's instances; empty if it is."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            return f"no list {key!r}"
    return "" if kind_of(content) in (COCO, None) else "no outlines in it"


def _read_content(file: InstancesFile, content: Entry, rule: BoxRule, findings: Findings) -> _Content:
    labels = _labels(file.path, content, findings)
    images = _images(file.path, content, findings)
    objects: dict[Any, list[CocoObject]] = {number: [] for number in images}
    for entry in _entries(file.path, content, "annotations", ("image_id", "category_id"), findings):
        number = shortened(entry.get("id", "without an id"))
        where = f"{file.path}: annotation {number}"
        if entry["category_id"] not in labels:
            known = ", ".join(f"{key} {label!r}" for key, label in itertools.islice(labels.items(), 20))
            category = shortened(repr(entry["category_id"]))
            findings.add(f"{where}: unknown category {category}; the file has {known}")
        elif entry["image_id"] not in images:
            findings.omit(
                "annotation of an unknown image", f"annotation {number} of image {shortened(entry['image_id'])}"
            )
        else:
            image = images[entry["image_id"]]
            try:
                found = _object(entry, labels[entry["category_id"]], image, rule, findings)
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                findings.add(f"{where} of {shortened(image['file_name'])}: {shortened(error, 200)}")
            else:
                objects[entry["image_id"]] += found
    return _Content(file, labels, images, objects)


def _images(path: Path, content: Entry, findings: Findings) -> dict[Any, Entry]:
    """The images by id; those without a usable name or size, and two of one id, are problems."""
    images: dict[Any, Entry] = {}
    for image in _entries(path, content, "images", ("id", "file_name"), findings):
        number = image["id"]
        if number in images:
            names = " and ".join(shortened(each["file_name"]) for each in (images[number], image))
            findings.add(f"{path}: two images have the id {shortened(repr(number))}: {names}")
        elif not name_in_voc(str(image["file_name"])) or not _has_plain_size(image):
            size = " x ".join(shortened(repr(image.get(side))) for side in ("width", "height"))
            name = shortened(repr(image["file_name"]))
            findings.add(f"{path}: image {shortened(number)}: named {name}, of size {size}")
        else:
            images[number] = image
    return images


def _entries(path: Path, content: Entry, key: str, needed: tuple[str, ...], findings: Findings) -> list[Entry]:
    """The entries of a list that have all needed keys, with plain values; the others are problems."""
    good = []
    for number, entry in enumerate(content[key]):
        missing = [name for name in needed if not isinstance(entry, dict) or not isinstance(entry.get(name), str | int)]
        if missing:
            about = f" (id {shortened(entry['id'])})" if isinstance(entry, dict) and "id" in entry else ""
            findings.add(f"{path}: {key}[{number}]{about}: no {missing[0]!r}")
        else:
            good.append(entry)
    return good


def _labels(path: Path, content: Entry, findings: Findings) -> dict[Any, str]:
    """Label by category id, without the unused group that Roboflow puts before the categories in it."""
    entries = _entries(path, content, "categories", ("id", "name"), findings)
    groups = {str(entry.get("supercategory")) for entry in entries if entry["name"] != entry.get("supercategory")}
    used = {str(entry.get("category_id")) for entry in content["annotations"] if isinstance(entry, dict)}
    labels = {}
    for entry in entries:
        is_group = str(entry["name"]) in groups and entry.get("supercategory") in (None, "", "none")
        if is_group and str(entry["id"]) not in used:
            continue
        try:
            labels[entry["id"]] = findings.label(entry["name"])
        except ValueError as error:
            findings.add(f"{path}: category {shortened(entry['id'])}: {error}")
    return labels


def _object(entry: Entry, label: str, image: Entry, rule: BoxRule, findings: Findings) -> list[CocoObject]:
    """The objects to draw for an annotation: one, or none (noted). Raises ValueError, TypeError, KeyError."""
    segmentation = entry.get("segmentation")
    name = str(image["file_name"])

    # Run lengths.
    if isinstance(segmentation, dict) and segmentation:
        return [CocoObject(label, run_lengths=_checked_run_lengths(segmentation, image))]

    # Outlines.
    if segmentation:
        if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
            raise ValueError("its segmentation is neither a list of polygons nor run lengths")
        for polygon in segmentation:
            check_number(len(polygon) // 2)
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        if any(len(polygon) % 2 or not all(map(math.isfinite, polygon)) for polygon in polygons):
            raise ValueError("a polygon with an odd number of coordinates, or with one that is not finite")
        areas = [polygon for polygon in polygons if len(polygon) >= 6]
        if len(areas) < len(polygons):
            findings.omit("polygon with fewer than 3 points", name, len(polygons) - len(areas))
        return [CocoObject(label, polygons=areas)] if areas else []

    # Only a box.
    box = [float(value) for value in entry.get("bbox") or []]
    if len(box) != 4 or min(box[2:]) <= 0 or not all(map(math.isfinite, box)):
        findings.omit("neither an outline nor a box", name)
        return []
    box_label = rule.label(label, name)
    # Without a meaning, boxes are a problem, and are counted among the objects.
    return [CocoObject(box_label or label, box=box)] if box_label or not rule.has_meaning else []


def _checked_run_lengths(segmentation: Entry, image: Entry) -> Entry:
    """Run lengths, as a list or compressed, checked against the stated size of the image."""
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    stated = _stated_size(image)
    if stated is not None and stated != (width, height):
        size = f"{stated[0]}x{stated[1]}"
        raise ValueError(f"its run lengths are for {width}x{height} pixels, but the stated image size is {size}")
    is_list = isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts)
    if not is_list and not isinstance(counts, str):
        raise ValueError("its run lengths are neither a list of numbers from 0 nor a text")
    return {"size": [height, width], "counts": counts}


def _has_plain_size(image: Entry) -> bool:
    sides = [image.get(side) or 0 for side in ("width", "height")]
    return all(isinstance(side, int | float) and 0 <= side <= MAX_PIXELS for side in sides)


def _stated_size(image: Entry) -> tuple[int, int] | None:
    width = image.get("width")
    height = image.get("height")
    return (int(width), int(height)) if width and height else None


def _examples(content: _Content, indices: dict[str, int], findings: Findings) -> list[Example]:
    examples = []
    finder = ImageFinder(findings)
    for number, image in content.images.items():
        file_name = str(image["file_name"])
        objects = content.objects[number]
        path = finder.find(content.file.image_dir, file_name, content.file.path.name)
        if path is None:
            continue
        examples.append(
            Example(
                name=name_in_voc(file_name),
                image=path,
                draw=functools.partial(draw, path, objects, indices),
                num_objects=len(objects),
                split=content.file.split,
                stated_size=_stated_size(image),
            )
        )
    return examples
