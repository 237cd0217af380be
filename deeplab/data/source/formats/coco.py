"""COCO's instances files: outlines and run lengths, rasterized by pycocotools, which the extra `coco` installs."""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deeplab.data.source.classes import VOID
from deeplab.data.source.formats.boxes import BoxRule
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    LeftOut,
    Problems,
    check_near_image,
    class_table,
    clean_label,
    name_in_voc,
    read_json,
    split_folders,
    split_name,
    visible,
)
from deeplab.errors import DataError, UsageError

Entry = dict[str, Any]  # of one of the file's lists


@dataclass(frozen=True)
class InstancesFile:
    """A COCO JSON file, the folder that its file names are relative to, and the split of its images, or ''."""

    path: Path
    image_dir: Path
    split: str = ""


@dataclass(frozen=True)
class _Object:
    """One annotation: polygons (flat lists of x, y), run lengths, or a box (left, top, width, height)."""

    label: str
    polygons: list[list[float]] | None = None
    run_lengths: Entry | None = None
    box: list[float] | None = None


@dataclass(frozen=True)
class _Content:
    """One file, checked: labels by category, images by id, and the objects of each image by the image's id."""

    file: InstancesFile
    labels: dict[Any, str]
    images: dict[Any, Entry]
    objects: dict[Any, list[_Object]]


@dataclass(frozen=True)
class _Findings:
    """Shared by all files while reading: problems, omissions, and the meaning of boxes."""

    problems: Problems
    left_out: LeftOut
    boxes: BoxRule

    def omit(self, reason: str, name: str, number: int = 1) -> None:
        self.left_out.setdefault(reason, []).extend([name] * number)


def read_coco(files: list[InstancesFile], boxes: str | None = None) -> Dataset:
    """The images and objects of COCO files; their category names are the classes; smaller objects lie in front.

    Crowds are drawn like other objects. Pixels are in memory for one image at a time.

    Args:
        files: one, or one per split.
        boxes: the meaning of a box without an outline, one of `boxes.MEANINGS`; None refuses such objects.

    Raises:
        DataError: unreadable files, unknown categories or images, missing images, boxes if `boxes` is None.
        UsageError: pycocotools is not installed.
    """
    _pycocotools_mask()
    problems = Problems()
    left_out: LeftOut = {}
    findings = _Findings(problems, left_out, BoxRule(boxes, left_out))
    contents = [_read_file(file, findings) for file in files]
    num_objects = sum(len(objects) for content in contents for objects in content.objects.values())
    findings.boxes.check(num_objects, problems)
    class_names, indices = class_table(sorted({label for content in contents for label in content.labels.values()}))
    examples = [example for content in contents for example in _examples(content, indices, problems)]
    problems.raise_if_any()
    if not num_objects:
        raise DataError(f"{', '.join(str(file.path) for file in files)}: no object covers an area")
    return Dataset(class_names, examples, left_out)


def instances_files(folder: Path) -> list[InstancesFile]:
    """The files of a COCO data set: a JSON in each of train/, valid/ and test/ (Roboflow), or annotations/*.json.

    The images are in the folder of the JSON; or, for annotations/instances_NAME.json, in images/NAME, NAME, or images.

    Raises:
        DataError: neither exists.
    """
    files = []
    for split, subfolder in split_folders(folder).items():
        found = visible(subfolder, "*.json")
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
        split = split_name(name)
        image_dir = next(place for place in places if place.is_dir())
        files.append(InstancesFile(path, image_dir, split if split in ("train", "val", "test") else ""))
    if not files:
        raise DataError(f"{folder}: contains neither train/*.json nor annotations/*.json")
    return files


def _read_file(file: InstancesFile, findings: _Findings) -> _Content:
    content = read_json(file.path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file.path}: not COCO's instances: no list {key!r}")
    labels = _labels(file.path, content, findings.problems)
    entries = _entries(file.path, content, "images", ("id", "file_name"), findings.problems)
    images = {image["id"]: image for image in entries}
    for image in entries:
        if not name_in_voc(str(image["file_name"])) or not _has_plain_size(image):
            size = f"{image.get('width')!r} x {image.get('height')!r}"
            findings.problems.add(f"{file.path}: image {image['id']}: named {image['file_name']!r}, of size {size}")
            del images[image["id"]]
    if len({image["id"] for image in entries}) < len(entries):
        findings.problems.add(f"{file.path}: two images have the same id")
    objects: dict[Any, list[_Object]] = {number: [] for number in images}
    for entry in _entries(file.path, content, "annotations", ("image_id", "category_id"), findings.problems):
        where = f"{file.path}: annotation {entry.get('id', 'without an id')}"
        if entry["category_id"] not in labels:
            known = ", ".join(f"{key} {label!r}" for key, label in itertools.islice(labels.items(), 20))
            findings.problems.add(f"{where}: unknown category {entry['category_id']!r}; the file has {known}")
        elif entry["image_id"] not in images:
            findings.problems.add(f"{where}: unknown image {entry['image_id']!r}")
        else:
            image = images[entry["image_id"]]
            try:
                found = _object(entry, labels[entry["category_id"]], image, findings)
            except (TypeError, ValueError, KeyError) as error:
                findings.problems.add(f"{where} of {image['file_name']}: {error}")
            else:
                objects[entry["image_id"]] += found
    return _Content(file, labels, images, objects)


def _entries(path: Path, content: Entry, key: str, needed: tuple[str, ...], problems: Problems) -> list[Entry]:
    """The entries of a list that have all needed keys, with plain values; the others are problems."""
    good = []
    for number, entry in enumerate(content[key]):
        missing = [name for name in needed if not isinstance(entry, dict) or not isinstance(entry.get(name), str | int)]
        if missing:
            about = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            problems.add(f"{path}: {key}[{number}]{about}: no {missing[0]!r}")
        else:
            good.append(entry)
    return good


def _labels(path: Path, content: Entry, problems: Problems) -> dict[Any, str]:
    """Label by category id, without the unused group that Roboflow puts before the categories in it."""
    entries = _entries(path, content, "categories", ("id", "name"), problems)
    groups = {entry.get("supercategory") for entry in entries if entry["name"] != entry.get("supercategory")}
    used = {entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict)}
    labels = {}
    for entry in entries:
        is_group = entry["name"] in groups and entry.get("supercategory") in (None, "", "none")
        if is_group and entry["id"] not in used:
            continue
        try:
            labels[entry["id"]] = clean_label(entry["name"])
        except ValueError as error:
            problems.add(f"{path}: category {entry['id']}: {error}")
    return labels


def _object(entry: Entry, label: str, image: Entry, findings: _Findings) -> list[_Object]:
    """The objects to draw for an annotation: one, or none (noted). Raises ValueError, TypeError, KeyError."""
    segmentation = entry.get("segmentation")
    name = str(image["file_name"])
    if isinstance(segmentation, dict) and segmentation:
        return [_Object(label, run_lengths=_checked_run_lengths(segmentation, image))]
    if segmentation:
        if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
            raise ValueError("its segmentation is neither a list of polygons nor run lengths")
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        if any(len(polygon) % 2 or not all(map(math.isfinite, polygon)) for polygon in polygons):
            raise ValueError("a polygon with an odd number of coordinates, or with one that is not finite")
        areas = [polygon for polygon in polygons if len(polygon) >= 6]
        if len(areas) < len(polygons):
            findings.omit("polygon with fewer than 3 points", name, len(polygons) - len(areas))
        return [_Object(label, polygons=areas)] if areas else []
    box = [float(value) for value in entry.get("bbox") or []]
    if len(box) != 4 or min(box[2:]) <= 0 or not all(map(math.isfinite, box)):
        findings.omit("neither an outline nor a box", name)
        return []
    box_label = findings.boxes.label(label, name)
    # Without a meaning, boxes are a problem, and are counted among the objects.
    return [_Object(box_label or label, box=box)] if box_label or not findings.boxes.has_meaning else []


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
        raise ValueError("its run lengths are neither a list of numbers nor a text")
    return {"size": [height, width], "counts": counts}


def _has_plain_size(image: Entry) -> bool:
    return all(isinstance(image.get(side) or 0, int | float) for side in ("width", "height"))


def _stated_size(image: Entry) -> tuple[int, int] | None:
    width = image.get("width")
    height = image.get("height")
    return (int(width), int(height)) if width and height else None


def _examples(content: _Content, indices: dict[str, int], problems: Problems) -> list[Example]:
    examples = []
    finder = ImageFinder(problems)
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
                draw=functools.partial(_draw, path, objects, indices),
                num_objects=len(objects),
                split=content.file.split,
                stated_size=_stated_size(image),
            )
        )
    return examples


def _draw(path: Path, objects: list[_Object], indices: dict[str, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width]: draws void boxes first, then objects, largest first."""
    mask_api = _pycocotools_mask()
    layers = []
    for found in objects:
        try:
            encoded = _encode(mask_api, found, height, width)
            area = int(mask_api.area(encoded))
        except Exception as error:  # pycocotools raises bare Exceptions
            raise DataError(f"{path}: an object of {found.label!r} cannot be drawn: {error}") from error
        is_void_box = found.box is not None and indices[found.label] == indices[VOID]
        layers.append((not is_void_box, -area, indices[found.label], encoded))
    mask = np.zeros((height, width), np.uint8)
    for _, _, index, encoded in sorted(layers, key=lambda layer: layer[:2]):
        mask[mask_api.decode(encoded).astype(bool)] = index
    return mask


def _encode(mask_api: ModuleType, found: _Object, height: int, width: int) -> Entry:
    """Compressed run lengths of an object, as pycocotools' COCO.annToRLE makes them."""
    if found.run_lengths is None:
        box = found.box or [0.0] * 4
        outlines = found.polygons or [[box[0], box[1], box[0] + box[2], box[1] + box[3]]]
        for outline in outlines:  # pycocotools' memory grows with the length of an outline, inside the image or not
            check_near_image(zip(outline[::2], outline[1::2], strict=True), height, width)
        return mask_api.merge(mask_api.frPyObjects(found.polygons or np.array([box]), height, width))
    size = found.run_lengths["size"]
    counts = found.run_lengths["counts"]
    if size != [height, width]:
        raise ValueError(f"its run lengths are for {size[1]}x{size[0]} pixels, but the image is {width}x{height}")
    if sum(_decompressed(counts) if isinstance(counts, str) else counts) != height * width:
        raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")  # pycocotools would not notice
    return found.run_lengths if isinstance(counts, str) else mask_api.frPyObjects(found.run_lengths, height, width)


def _decompressed(text: str) -> list[int]:
    """Compressed run lengths as numbers: five bits per character, lowest first; from the fourth, differences."""
    counts: list[int] = []
    value = 0
    shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = 0
            shift = 0
    return counts


def _pycocotools_mask() -> ModuleType:
    try:
        from pycocotools import mask  # noqa: PLC0415  an extra, which only this format needs
    except ImportError as error:
        raise UsageError("pycocotools is needed to read COCO's files: pip install '.[coco]'") from error
    return mask
