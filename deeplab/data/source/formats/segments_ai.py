"""Segments.ai: the JSON file of a release, and images and bitmaps as its package segments-ai stores them."""

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from deeplab.data.source.formats.dataset import Dataset, Example, ImageFinder, class_table, name_in_voc, read_json
from deeplab.data.source.formats.findings import Findings, no_area
from deeplab.data.source.formats.id_maps import draw_segments, size_of
from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError
from deeplab.json_fields import field_of

_LABELS = "ground-truth"
_UNUSED = ("UNLABELED", "SKIPPED", "REJECTED")

Entry = dict[str, Any]


def read_segments_ai(path: Path, image_dir: Path | None = None, strict: bool = False) -> Dataset:
    """The labels `ground-truth` of a release; the classes are its categories, and pixels of no segment are background.

    SegmentsDataset of the package segments-ai downloads the files: images as NAME.jpg, bitmaps as
    NAME_label_ground-truth.png. They are found in `image_dir`, else where it puts
    them below the release, or beside the release. Samples without a bitmap, or
    that were rejected, are left out.

    Raises:
        DataError: not a release for bitmaps, missing images or bitmaps.
    """
    findings = Findings(strict)
    content = read_json(path)
    try:
        dataset = field_of(content, "dataset", dict)
        samples = field_of(dataset, "samples", list)
        categories = field_of(field_of(dataset, "task_attributes", dict), "categories", list)
        labels = {field_of(each, "id", int): findings.label(field_of(each, "name", str)) for each in categories}
    except ValueError as error:
        raise DataError(f"{path}: not a release of Segments.ai: {error}{recognized(path)}") from error
    class_names, indices = class_table(labels.values())
    # As the package names the folder of its downloads.
    downloads = f"segments/{dataset.get('owner')}_{dataset.get('name')}/{content['name']}/" if "name" in content else ""
    finder = ImageFinder(findings)

    def find(name: str) -> Path | None:
        return finder.find_in([image_dir or path.parent], [downloads + name, name], path.name)

    examples = []
    for sample in samples:
        try:
            example = _example(sample, find, labels, indices, findings)
        except (DataError, ValueError) as error:
            name = sample.get("name") if isinstance(sample, dict) else sample
            findings.add(f"{path}: sample {name}: {error}")
        else:
            examples += [example] if example else []
    findings.raise_if_any()
    if not any(example.num_objects for example in examples):
        raise no_area(path, findings)
    return Dataset(class_names, examples, findings.left_out, findings.renamed)


def _example(
    sample: Entry,
    find: Callable[[str], Path | None],
    labels: dict[int, str],
    indices: dict[str, int],
    findings: Findings,
) -> Example | None:
    """None if it is left out, or a file is missing; both are noted. Raises ValueError, DataError."""
    name = field_of(sample, "name", str)
    stem = str(PurePosixPath(name).with_suffix(""))
    label = field_of(sample, "labels", dict).get(_LABELS) or {}
    attributes = field_of({"label": label}, "label", dict).get("attributes") or {}
    status = field_of({"label_status": "UNLABELED", **label}, "label_status", str)
    if status in _UNUSED or not field_of({"attributes": attributes}, "attributes", dict).get("segmentation_bitmap"):
        findings.omit(f"sample without a bitmap ({status.lower()})", name)
        return None

    # The class of each id in the bitmap; 0 is not labelled.
    segments = {0: 0}
    for entry in field_of(attributes, "annotations", list):
        category = field_of(entry, "category_id", int)
        if category not in labels:
            raise ValueError(f"unknown category {category}")
        segments[field_of(entry, "id", int)] = indices[labels[category]]

    # The files beside the release, which are named after the sample.
    address = field_of(field_of(field_of(sample, "attributes", dict), "image", dict), "url", str)
    mask = find(f"{stem}_label_{_LABELS}.png")
    image = find(f"{stem}{PurePosixPath(urlparse(address).path).suffix}")
    if mask is None or image is None:
        return None
    return Example(
        name=name_in_voc(name),
        image=image,
        draw=functools.partial(draw_segments, mask, segments),
        num_objects=len(segments) - 1,
        stated_size=size_of(mask),
        mask=mask,
    )
