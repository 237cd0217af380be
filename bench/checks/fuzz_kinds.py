"""The kinds of files that fuzz.py changes: small examples of each, and how they are read."""

import base64
import contextlib
import functools
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import numpy as np
from PIL import Image

from deeplab.commands import convert
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards import records
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split, name_damaged_shard
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable, read_classes
from deeplab.data.source.masks import read_mask
from deeplab.labels import palette
from deeplab.model.settings import ModelConfig
from deeplab.run.run_folder import read_config
from deeplab.view import charts
from deeplab.view.report import read_records

NAMES = ("background", "one", "two")

Read = Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it is, how it is read and changed, and whether other data than the original is wrong."""

    path: Path
    read: Read
    mutate: mutations.Mutate = mutations.of_bytes
    exact: bool = False


def write_voc(voc_dir: Path, rng: np.random.Generator) -> None:
    """Four small images with masks."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc_dir / part).mkdir(parents=True)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(voc_dir / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30)))
        mask.putpalette(palette().tobytes())
        mask.save(voc_dir / "SegmentationClass" / f"{name}.png")
    (voc_dir / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\nd\n")


def shard_kinds(folder: Path) -> dict[str, Kind]:
    """Shards, manifests, masks and images."""
    (pair, *_) = voc.pairs(folder / "voc", "train")
    classes = ClassTable.of_names(NAMES)

    def read_shards() -> list[tuple[bytes, ...]]:
        split = Split.read(folder, "train")
        with name_damaged_shard([split]):
            batches = EvaluationBatches(split, max_images=1, max_pixels=1).for_worker().take(split.num_examples)
            return [
                (*batch["name"], batch["image"].tobytes(), batch["label"].tobytes())
                for batch in batches.as_numpy_iterator()
            ]

    def read_labels() -> bytes:
        return read_mask(pair.mask, classes).labels.tobytes()

    def read_image() -> tuple[int, ...]:
        record = next(records.encode_examples(pair, records.Form(classes))).record
        image, _ = records.decode_example(records.parse_example(record))
        return tuple(image.shape)

    manifest = folder / "train.json"

    def with_checksum(content: bytes, rng: random.Random) -> bytes:
        """Another manifest, as another program might write it: the checksum fits."""
        changed = mutations.of_json(content, rng)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            fields = json.loads(changed)
            del fields["checksum"]
            text = json.dumps(fields, sort_keys=True)
            changed = json.dumps({**fields, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()
        return changed

    return {
        "shard": Kind(folder / "train-00000-of-00001.tfrecord", read_shards, exact=True),
        "manifest": Kind(manifest, lambda: Split.read(folder, "train"), exact=True),
        "manifest, values": Kind(manifest, lambda: Split.read(folder, "train"), with_checksum),
        "mask (PNG)": Kind(pair.mask, read_labels, exact=True),
        "image (JPEG)": Kind(pair.image, read_image, exact=True),
    }


def run_kinds(folder: Path) -> dict[str, Kind]:
    """Files of a run."""
    run = folder / "run"
    run.mkdir()
    (run / "model.json").write_text(json.dumps(ModelConfig(NAMES).to_json()))
    lines = [{"step": n, "split": split, "loss": 1 / (n + 1)} for n in range(3) for split in ("train", "val")]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def read_curves() -> str:
        return str(charts.training_curves(read_records(run / "metrics.jsonl")))

    def a_line(content: bytes, rng: random.Random) -> bytes:
        """One of the lines is changed."""
        all_lines = content.splitlines()
        place = rng.randrange(len(all_lines))
        all_lines[place] = mutations.of_json(all_lines[place], rng)
        return b"\n".join(all_lines)

    return {
        "model.json": Kind(run / "model.json", lambda: read_config(run), mutations.of_json),
        "metrics.jsonl": Kind(run / "metrics.jsonl", read_curves, a_line),
    }


def list_kinds(folder: Path) -> dict[str, Kind]:
    """Class tables and lists."""
    texts = {
        "class names": "background\none\ntwo words\nthree\n",
        "class table, values": "background: 0\ncat: 1, 2\ndog: 255\nvoid: 3, *\n",
        "class table, colours": "background: #000000\ncat: #ff0000, #800000\nvoid: *\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n",
        "_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
    }
    kinds = {}
    for number, (name, text) in enumerate(texts.items()):
        path = folder / f"classes{number}"
        path.write_text(text)
        kinds[name] = Kind(path, functools.partial(read_classes, path), mutations.of_text)
    for name in ("names", "pairs"):
        shutil.copytree(folder / "voc", folder / name)
        path = folder / name / "ImageSets" / "Segmentation" / "train.txt"
        if name == "pairs":
            path.write_text("".join(f"/JPEGImages/{each}.jpg /SegmentationClass/{each}.png\n" for each in "abcd"))

        def read(voc_dir: Path = folder / name) -> list[tuple[str, str]]:
            return [(pair.name, pair.problem) for pair in voc.pairs(voc_dir, "train")]

        kinds[f"list of {name}"] = Kind(path, read, mutations.of_text)
    return kinds


def annotation_kinds(folder: Path) -> dict[str, Kind]:
    """Annotations of other tools, read and drawn."""
    kinds = {}
    outline = [[1, 1], [20, 1], [20, 15]]
    mask = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(mask, "PNG")
    encoded = base64.b64encode(mask.getvalue()).decode()
    shapes = [
        {"label": "cat", "points": outline, "shape_type": "polygon"},
        {"label": "dog", "points": outline[:2], "shape_type": "circle"},
        {"label": "void", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {
            "label": "dog",
            "points": [[1, 1], [8, 8]],
            "shape_type": "mask",
            "mask": encoded,
        },
    ]
    labelme = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": 30, "imageHeight": 20}
    kinds["labelme"] = annotation(folder / "labelme", "a.json", json.dumps(labelme), labelme_dir="")
    content = (folder / "voc" / "JPEGImages" / "a.jpg").read_bytes()
    inside = {**labelme, "imagePath": "none.jpg", "imageData": base64.b64encode(content).decode()}
    kinds["labelme, image inside"] = annotation(folder / "inside", "a.json", json.dumps(inside), labelme_dir="")
    flat = [float(value) for point in outline for value in point]
    kinds["COCO"] = annotation(folder / "coco", "a.json", json.dumps(_coco(flat)), coco_json="a.json", image_dir="")
    text = "train: .\nval:\nnames:\n  0: cat\n  1: 'dog'\n"
    kinds["data.yaml"] = annotation(folder / "yaml", "data.yaml", text, mutations.of_text, yolo_yaml="data.yaml")
    lines = "0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0 0 0.5 0 0.5 0.5\n"
    kinds["labels of YOLO"] = annotation(folder / "yolo", "a.txt", lines, mutations.of_text, yolo_yaml="data.yaml")
    for name in ("yaml", "yolo"):
        (folder / name / "data.yaml").write_text(text)
        (folder / name / "a.txt").write_text(lines)
    return kinds


def _coco(outline: list[float]) -> dict[str, Any]:
    """Objects by an outline, by run lengths, by compressed ones, and by a box."""
    compressed = {"size": [20, 30], "counts": "T3b1R>"}
    segmentations: tuple[Any, ...] = ([outline], {"size": [20, 30], "counts": [100, 50, 450]}, compressed, [])
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1 + n % 2, "segmentation": each, "bbox": [1, 1, 5, 5], "iscrowd": 0}
            for n, each in enumerate(segmentations)
        ],
    }


def annotation(folder: Path, name: str, text: str, mutate: mutations.Mutate = mutations.of_json, **flags: str) -> Kind:
    """A folder with an image and an annotation; reading it converts it, except for writing."""
    folder.mkdir()
    for image in ("a", "b"):
        shutil.copy(folder.parent / "voc" / "JPEGImages" / f"{image}.jpg", folder)
    (folder / name).write_text(text)
    paths = {flag: folder / value for flag, value in flags.items()}
    options = convert.CocoSettings(**{flag: paths.pop(flag) for flag in ("image_dir",) if flag in paths})

    def read() -> list[tuple]:
        reading = convert.ReadingSettings(boxes="object")
        dataset = convert.read(convert.SourceSettings(**paths), reading, options)
        drawn = []
        for example in dataset.examples:
            _, height, width = example.open_image().stored_form(turned=False)
            drawn.append((example.name, example.draw(height, width).tobytes()))
        return [dataset.class_names, *drawn]

    return Kind(folder / name, read, mutate)


def write_shards(folder: Path, seed: int) -> None:
    """The shards, and the images and masks that they are made of."""
    write_voc(folder / "voc", np.random.default_rng(seed))
    prepare(ShardSettings(voc_dir=folder / "voc", num_shards=1), folder, "train", NAMES)


def all_kinds(folder: Path) -> dict[str, Kind]:
    """All kinds, in a folder with what `write_shards` writes."""
    return shard_kinds(folder) | run_kinds(folder) | list_kinds(folder) | annotation_kinds(folder)
