"""COCO panoptic: a JSON file per split with the segments of each image, and a folder of PNGs of their numbers."""

import functools
from pathlib import Path
from typing import Any

from deeplab.data.source.classes import VOID
from deeplab.data.source.formats.dataset import (
    Dataset,
    Example,
    ImageFinder,
    known_split,
    name_in_voc,
    read_json,
    visible,
)
from deeplab.data.source.formats.findings import Findings
from deeplab.data.source.formats.id_maps import draw_segments, size_of
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError
from deeplab.json_fields import field_of
from deeplab.labels import VOID_LABEL

_PREFIX = "panoptic_"

Entry = dict[str, Any]


def read_panoptic(folder: Path, image_dir: Path | None = None) -> Dataset:
    """The files annotations/panoptic_NAME.json, or panoptic_NAME.json, with PNGs in a folder of the same name.

    The images are in `image_dir`, else in images/NAME, NAME, or images. The classes are the categories in alphabetical
    order; there is no background: pixels of no segment are void. Crowds are drawn like other segments.

    Raises:
        DataError: no such files, unknown categories, missing images or PNGs.
    """
    files = visible(folder, f"annotations/{_PREFIX}*.json") or visible(folder, f"{_PREFIX}*.json")
    if not files:
        raise DataError(f"{folder}: contains no annotations/{_PREFIX}*.json{recognized(folder)}")
    findings = Findings()
    contents = {path: read_json(path) for path in files}
    names = sorted({label for path, content in contents.items() for label in _labels(path, content, findings).values()})
    class_names = tuple(name for name in names if name != VOID)
    if len(class_names) > VOID_LABEL:
        raise DataError(f"{folder}: {len(class_names)} classes; at most {VOID_LABEL}, since {VOID_LABEL} is void")
    indices = {name: index for index, name in enumerate(class_names)} | {VOID: VOID_LABEL}
    finder = ImageFinder(findings)
    examples = []
    for path, content in contents.items():
        name = path.stem.removeprefix(_PREFIX)
        places = [image_dir] if image_dir else [folder / "images" / name, folder / name, folder / "images", folder]
        labels = {number: indices[label] for number, label in _labels(path, content, findings).items()}
        examples += _examples(path, content, places, labels, finder, findings)
    findings.raise_if_any()
    if not any(example.num_objects for example in examples):
        raise DataError(f"{folder}: no segment in {', '.join(path.name for path in files)}")
    return Dataset(class_names, examples, renamed=findings.renamed)


def _labels(path: Path, content: object, findings: Findings) -> dict[int, str]:
    try:
        return {
            field_of(entry, "id", int): findings.label(field_of(entry, "name", str))
            for entry in field_of(content, "categories", list)
        }
    except ValueError as error:
        raise DataError(f"{path}: not COCO panoptic: categories: {error}{recognized(path)}") from error


def _examples(
    path: Path, content: Entry, places: list[Path], labels: dict[int, int], finder: ImageFinder, findings: Findings
) -> list[Example]:
    try:
        images = {field_of(entry, "id", int): entry for entry in field_of(content, "images", list)}
        annotations = field_of(content, "annotations", list)
    except ValueError as error:
        raise DataError(f"{path}: not COCO panoptic: {error}{recognized(path)}") from error

    # An example for each annotation; one that is damaged is noted.
    examples = []
    for number, annotation in enumerate(annotations):
        try:
            image = images.get(field_of(annotation, "image_id", int), {})
            name = field_of(image, "file_name", str)
            mask = path.with_suffix("") / Path(field_of(annotation, "file_name", str)).name
            segments = _segments(annotation, labels)
        except ValueError as error:
            findings.add(f"{path}: annotations[{number}]: {error}")
            continue
        found = finder.find_in(places, [name], path.name)
        if not mask.is_file():
            findings.add_missing(mask, path.name)
        elif found is not None:
            examples.append(
                Example(
                    name=name_in_voc(name),
                    image=found,
                    draw=functools.partial(draw_segments, mask, segments),
                    num_objects=len(segments) - 1,
                    split=known_split(path.stem.removeprefix(_PREFIX)),
                    stated_size=size_of(mask),
                    mask=mask,
                )
            )
    return examples


def _segments(annotation: Entry, labels: dict[int, int]) -> dict[int, int]:
    """Class index by the number of a segment; 0 is void. Raises ValueError."""
    segments = {0: VOID_LABEL}
    for entry in field_of(annotation, "segments_info", list):
        category = field_of(entry, "category_id", int)
        if category not in labels:
            raise ValueError(f"unknown category {category}")
        segments[field_of(entry, "id", int)] = labels[category]
    return segments
