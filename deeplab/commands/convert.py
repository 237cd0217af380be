"""Converts annotations of other tools to VOC's layout: images, masks, splits and class_names.txt.

python -m deeplab.data.convert --labelme_dir=drawn --voc_dir=mydata
python -m deeplab.data.convert --coco_json=instances.json --image_dir=images --voc_dir=mydata
python -m deeplab.data.convert --coco_dir=export --voc_dir=mydata
python -m deeplab.data.convert --yolo_yaml=export/data.yaml --voc_dir=mydata
python -m deeplab.data.convert --cvat_xml=export/annotations.xml --voc_dir=mydata
python -m deeplab.data.convert --label_studio_json=export.json --image_dir=images --voc_dir=mydata
python -m deeplab.data.convert --supervisely_dir=project --voc_dir=mydata
python -m deeplab.data.convert --darwin_dir=dataset --voc_dir=mydata
python -m deeplab.data.convert --panoptic_dir=coco --voc_dir=mydata
python -m deeplab.data.convert --segments_json=release.json --image_dir=segments/me_set/v1 --voc_dir=mydata
python -m deeplab.data.convert --via_json=project.json --image_dir=images --voc_dir=mydata
python -m deeplab.data.convert --rle_csv=train.csv --image_dir=train_images --voc_dir=mydata
python -m deeplab.data.convert --parquet_dir=data --voc_dir=mydata
python -m deeplab.data.convert --roboflow_dir=export --voc_dir=mydata
python -m deeplab.data.convert --cityscapes_dir=cityscapes --voc_dir=mydata
python -m deeplab.data.convert --ade20k_dir=ADEChallengeData2016 --voc_dir=mydata

COCO, and the outlines of CVAT, Label Studio and VIA, need pycocotools (the extra `coco`); YOLO needs PyYAML (the extra
`yolo`), parquet pyarrow (the extra `parquet`).
"""

from deeplab.program.start import Program

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from deeplab.data.source.bounds import Bounds
from deeplab.data.source.formats import (
    boxes,
    coco,
    cvat,
    darwin,
    label_studio,
    labelme,
    masks,
    panoptic,
    parquet,
    rle_table,
    segments_ai,
    supervisely,
    via,
    yolo,
)
from deeplab.data.source.formats.coco import InstancesFile
from deeplab.data.source.formats.dataset import Dataset, split_folders
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import UsageError, shortened
from deeplab.progress import shown
from deeplab.settings import Classes, Options, refuse_arguments, require, setting


@dataclass(frozen=True)
class SourceSettings:
    """Annotations to convert, in one of these formats."""

    labelme_dir: Path | None = setting(
        None, "labelme, X-AnyLabeling: folder of *.json next to their images, including subfolders."
    )
    coco_json: Path | None = setting(None, "COCO: instances file; of train if --coco_val_json is given.")
    coco_dir: Path | None = setting(
        None, "COCO: folder with one JSON file in each of train/, valid/, test/, or with annotations/*.json."
    )
    yolo_yaml: Path | None = setting(
        None, "YOLO segmentation (Ultralytics): data.yaml; of Label Studio, the folder with classes.txt."
    )
    cvat_xml: Path | None = setting(None, "CVAT: annotations.xml of an export as CVAT for images 1.1.")
    label_studio_json: Path | None = setting(None, "Label Studio: file of an export as JSON or JSON-MIN.")
    supervisely_dir: Path | None = setting(
        None, "Supervisely: folder of a project, with meta.json; or of its export as Pascal VOC."
    )
    darwin_dir: Path | None = setting(
        None, "V7: folder of *.json in the format Darwin 2, including subfolders, with the images in images/."
    )
    panoptic_dir: Path | None = setting(
        None, "COCO panoptic: folder with annotations/panoptic_NAME.json, annotations/panoptic_NAME/*.png and images."
    )
    segments_json: Path | None = setting(
        None, "Segments.ai: file of a release, beside the images and bitmaps that its package has downloaded."
    )
    via_json: Path | None = setting(
        None, "VIA (VGG Image Annotator) 1 to 3: file of a project, or of annotations exported as JSON."
    )
    rle_csv: Path | None = setting(
        None, "Kaggle: table of run lengths, with columns such as ImageId, ClassId, EncodedPixels."
    )
    parquet_dir: Path | None = setting(
        None, "Hugging Face: folder of *.parquet with a column of images and one of masks."
    )
    roboflow_dir: Path | None = setting(
        None, "Roboflow: folder of an export in Semantic Segmentation Masks, COCO Segmentation or YOLO format."
    )
    cityscapes_dir: Path | None = setting(None, "Cityscapes: folder with leftImg8bit and gtFine; 19 classes.")
    ade20k_dir: Path | None = setting(None, "ADE20K: folder ADEChallengeData2016; 150 classes.")


@dataclass(frozen=True)
class ReadingSettings:
    """How to read them."""

    boxes: str | None = setting(
        None,
        "Meaning of a box without an outline (COCO, YOLO): all its pixels are the object, or void, or nothing (the "
        "box is left out). Without this flag, such data is refused.",
        choices=boxes.MEANINGS,
    )
    strict: bool = setting(
        False,
        "Refuse what would be left out with a warning: shapes that cover no area or are of an unknown kind, files of "
        "other tools, objects of images that the file does not list, images without annotations.",
    )
    allow_outside: bool = setting(
        False,
        "Also read files outside the given folders if annotations name them, by absolute paths, by .. or by symbolic "
        "links. Only for annotations that you trust: images are copied into the new data set, whatever they show.",
    )


@dataclass(frozen=True)
class CocoSettings:
    """Options for --coco_json; --image_dir also for other single files."""

    image_dir: Path | None = setting(
        None, "Folder of the images that the annotations name. Default, except for --coco_json: beside their file."
    )
    coco_val_json: Path | None = setting(None, "Instances file of val, if val is not in --coco_json.")
    val_image_dir: Path | None = setting(None, "Folder of the images of --coco_val_json. Default: --image_dir.")
    coco_test_json: Path | None = setting(None, "Instances file of test.")
    test_image_dir: Path | None = setting(None, "Folder of the images of --coco_test_json. Default: --image_dir.")


@dataclass(frozen=True)
class TargetSettings:
    """Data set to write."""

    voc_dir: Path | None = setting(None, "Folder to write, in VOC layout; it must not exist.")
    val_share: float = setting(
        0.2, "Share of the images that becomes val, at random, if the data set has no val.", lower=0.0, upper=1.0
    )


SETTINGS: Classes = (SourceSettings, ReadingSettings, CocoSettings, TargetSettings)

_FIND_THEIR_IMAGES = (
    "labelme_dir",
    "coco_dir",
    "yolo_yaml",
    "supervisely_dir",
    "parquet_dir",
    "roboflow_dir",
    "cityscapes_dir",
    "ade20k_dir",
)
"""Flags that take no --image_dir."""


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and for arguments."""
    refuse_arguments(arguments)
    require("voc_dir", options[TargetSettings].voc_dir)


def main(options: Options, arguments: list[str]) -> None:
    """Annotations -> --voc_dir."""
    target = options[TargetSettings]
    voc_dir = require("voc_dir", target.voc_dir)
    dataset = read(options[SourceSettings], options[ReadingSettings], options[CocoSettings])
    write_voc(dataset, voc_dir, target.val_share)


def read(source: SourceSettings, reading: ReadingSettings, options: CocoSettings) -> Dataset:
    """The data set that the flags name.

    Raises:
        DataError: as the reader of its format.
        UsageError: no or several data sets are named, or flags that do not apply to the one named.
    """
    given = [field.name for field in fields(source) if getattr(source, field.name)]
    if len(given) != 1:
        names = ", ".join(f"--{field.name}" for field in fields(source))
        raise UsageError(f"give exactly one of {names}")
    name = given[0]
    path: Path = getattr(source, name)
    unused = [field.name for field in fields(options) if getattr(options, field.name)]
    others = [each for each in unused if each != "image_dir"]
    if others and name != "coco_json":
        raise UsageError(f"--{others[0]}: only with --coco_json")
    if unused and name in _FIND_THEIR_IMAGES:
        raise UsageError(f"--image_dir: not with --{name}, which finds its images by itself")
    readers: dict[str, Callable[[], Dataset]] = {
        "labelme_dir": lambda: labelme.read_labelme(path, reading.strict),
        "coco_json": lambda: coco.read_coco(_coco_files(path, options), reading.boxes, reading.strict),
        "coco_dir": lambda: coco.read_coco(coco.instances_files(path), reading.boxes, reading.strict),
        "yolo_yaml": lambda: yolo.read_yolo(path, reading.boxes, reading.strict, reading.allow_outside),
        "cvat_xml": lambda: cvat.read_cvat(path, options.image_dir, reading.strict),
        "label_studio_json": lambda: label_studio.read_label_studio(path, options.image_dir, reading.strict),
        "supervisely_dir": lambda: supervisely.read_supervisely(path, reading.strict),
        "darwin_dir": lambda: darwin.read_darwin(path, options.image_dir, reading.strict),
        "panoptic_dir": lambda: panoptic.read_panoptic(path, options.image_dir),
        "segments_json": lambda: segments_ai.read_segments_ai(path, options.image_dir, reading.strict),
        "via_json": lambda: via.read_via(path, options.image_dir, reading.strict),
        "rle_csv": lambda: rle_table.read_rle_table(path, options.image_dir),
        "parquet_dir": lambda: parquet.read_parquet(path),
        "roboflow_dir": lambda: _read_roboflow(path, reading),
        "cityscapes_dir": lambda: masks.read_cityscapes(path),
        "ade20k_dir": lambda: masks.read_ade20k(path),
    }
    with shown("reading annotations"):
        dataset = readers[name]()

    # In the folders that the flags name, and in those of the files that they name.
    places = [getattr(each, field.name) for each in (source, options) for field in fields(each)]
    folders = [place if place.is_dir() else place.parent for place in places if place]
    bounds = Bounds(tuple(dict.fromkeys(folders)), reading.allow_outside)
    for example in dataset.examples:
        for file in filter(None, (example.image, example.mask)):
            bounds.check(file, f"example {shortened(example.name)}")
    return dataset


def _coco_files(path: Path, options: CocoSettings) -> list[InstancesFile]:
    image_dir = require("image_dir", options.image_dir)
    others = [
        InstancesFile(json_path, folder or image_dir, split)
        for split, json_path, folder in (
            ("val", options.coco_val_json, options.val_image_dir),
            ("test", options.coco_test_json, options.test_image_dir),
        )
        if json_path is not None
    ]
    return [InstancesFile(path, image_dir, "train" if others else ""), *others]


def _read_roboflow(folder: Path, reading: ReadingSettings) -> Dataset:
    """An export of Roboflow; its files show the format."""
    if (folder / "data.yaml").is_file():
        return yolo.read_yolo(folder / "data.yaml", reading.boxes, reading.strict, reading.allow_outside)
    if any((place / "_annotations.coco.json").is_file() for place in split_folders(folder).values()):
        return coco.read_coco(coco.instances_files(folder), reading.boxes, reading.strict)
    return masks.read_roboflow(folder)


def command() -> None:
    """The program as `deeplab-convert` starts it."""
    Program(SETTINGS, __doc__, check_flags).run(main)
