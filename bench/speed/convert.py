"""Seconds and memory of reading annotations of other tools and drawing their masks: sets of 10,000 to 100,000 objects.

python bench/speed/convert.py [FORMAT ...]

Each image has 64x64 pixels and 100 objects. Time should grow as their number does; memory, beside what the text of one
file takes, should not.
"""

import base64
import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.commands.convert import CocoSettings, ReadingSettings, SourceSettings, read

SIDE = 64
OBJECTS = 100  # of an image
NUMBERS = (10_000, 40_000, 100_000)

Point = tuple[int, int]


def corners(rng: np.random.Generator) -> list[list[int]]:
    """An outline of eight corners."""
    return rng.integers(0, SIDE, (8, 2)).tolist()


def bitmap(rng: np.random.Generator) -> np.ndarray:
    """Some pixels with runs of a few: bool [SIDE, SIDE]."""
    return np.repeat(rng.random((SIDE, SIDE // 8)) < 0.3, 8, 1)


def lengths(pixels: np.ndarray) -> list[int]:
    """Lengths of runs, off and on in turn."""
    flat = pixels.ravel()
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True)) + 1
    return ([0] if flat[0] else []) + np.diff(np.append(0, ends)).tolist()


def names(folder: Path, number: int) -> list[str]:
    """Names of images that are written to a folder, as links to one file."""
    folder.mkdir(parents=True)
    found = [f"{index:05d}.png" for index in range(number // OBJECTS)]
    Image.new("RGB", (SIDE, SIDE)).save(folder / found[0])
    for name in found[1:]:
        os.link(folder / found[0], folder / name)
    return found


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def cvat_xml(folder: Path, number: int) -> Path:
    """Outlines, boxes, ellipses and masks in turn."""
    rng = np.random.default_rng(0)
    with (folder / "annotations.xml").open("w") as file:
        file.write("<annotations>")
        for name in names(folder / "images", number):
            file.write(f'<image name="{name}" width="{SIDE}" height="{SIDE}">')
            for _ in range(OBJECTS // 4):
                points = ";".join(f"{x},{y}" for x, y in corners(rng))
                runs = ",".join(map(str, lengths(bitmap(rng))))
                file.write(
                    f'<polygon label="a" points="{points}"/><box label="b" xtl="1" ytl="2" xbr="30" ybr="40"/>'
                    f'<ellipse label="a" cx="30" cy="30" rx="20" ry="9" rotation="10"/>'
                    f'<mask label="b" rle="{runs}" left="0" top="0" width="{SIDE}" height="{SIDE}"/>'
                )
            file.write("</image>")
        file.write("</annotations>")
    return folder / "annotations.xml"


def label_studio_json(folder: Path, number: int) -> Path:
    """Outlines and turned rectangles; brushes are much larger, and one of a hundred."""
    rng = np.random.default_rng(0)
    size = {"original_width": SIDE, "original_height": SIDE}
    header = f"{4 * SIDE * SIDE:032b}{7:05b}" + "".join(f"{each - 1:04b}" for each in (3, 4, 8, 16))
    tasks = []
    for name in names(folder / "images", number):
        alpha = bitmap(rng).ravel()
        values = [{"points": corners(rng), "labels": ["a"]} for _ in range(OBJECTS // 2)]
        values += [{"x": 9, "y": 9, "width": 50, "height": 40, "rotation": 9, "labels": ["b"]}] * (OBJECTS // 2 - 1)
        bits = header + "".join(f"100011{255 * int(each):08b}" for each in alpha)
        packed = [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]
        values.append({"rle": packed, "labels": ["a"]})
        result = [{"type": "labels", "value": value, **size} for value in values]
        tasks.append({"id": name, "data": {"image": name}, "annotations": [{"result": result}]})
    write_json(folder / "export.json", tasks)
    return folder / "export.json"


def supervisely_dir(folder: Path, number: int) -> Path:
    """Outlines and bitmaps."""
    rng = np.random.default_rng(0)
    write_json(folder / "meta.json", {"classes": [{"title": "a"}, {"title": "b"}]})
    for name in names(folder / "ds" / "img", number):
        objects: list[dict[str, Any]] = []
        for _ in range(OBJECTS // 2):
            points = {"exterior": corners(rng), "interior": []}
            objects.append({"classTitle": "a", "geometryType": "polygon", "points": points})
            png = io.BytesIO()
            Image.fromarray(bitmap(rng)).save(png, "PNG")
            packed = {"data": base64.b64encode(zlib.compress(png.getvalue())).decode(), "origin": [0, 0]}
            objects.append({"classTitle": "b", "geometryType": "bitmap", "bitmap": packed})
        size = {"width": SIDE, "height": SIDE}
        write_json(folder / "ds" / "ann" / f"{name}.json", {"size": size, "tags": [], "objects": objects})
    return folder


def darwin_dir(folder: Path, number: int) -> Path:
    """Outlines of two paths."""
    rng = np.random.default_rng(0)
    slots = [{"width": SIDE, "height": SIDE}]
    for name in names(folder / "images", number):
        annotations = []
        for _ in range(OBJECTS):
            paths = [[{"x": x, "y": y} for x, y in corners(rng)] for _ in range(2)]
            annotations.append({"name": "a", "polygon": {"paths": paths}})
        content = {"item": {"name": name, "path": "/", "slots": slots}, "annotations": annotations}
        write_json(folder / f"{name}.json", content)
    return folder


def _segments(folder: Path, found: list[str], ending: str) -> list[dict[str, Any]]:
    """Writes PNGs of numbers of segments; returns the segments of each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in found:
        numbers = np.zeros((SIDE, SIDE, 3), np.uint8)
        numbers[..., 0] = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % OBJECTS + 1
        Image.fromarray(numbers).save(folder / name.replace(".png", ending))
    return [{"id": value, "category_id": value % 2} for value in range(1, OBJECTS + 1)]


def panoptic_dir(folder: Path, number: int) -> Path:
    """100 segments an image."""
    found = names(folder / "train", number)
    segments = _segments(folder / "annotations" / "panoptic_train", found, ".png")
    content = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(found)],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "annotations": [
            {"image_id": index, "file_name": name, "segments_info": segments} for index, name in enumerate(found)
        ],
    }
    write_json(folder / "annotations" / "panoptic_train.json", content)
    return folder


def segments_json(folder: Path, number: int) -> Path:
    """100 segments an image."""
    found = names(folder / "set", number)
    attributes = {"annotations": _segments(folder / "set", found, "_label_ground-truth.png")}
    attributes["segmentation_bitmap"] = [{"url": "x"}]
    label = {"ground-truth": {"label_status": "LABELED", "attributes": attributes}}
    samples = [{"name": name, "attributes": {"image": {"url": name}}, "labels": label} for name in found]
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    dataset = {"samples": samples, "task_attributes": {"categories": categories}}
    write_json(folder / "set" / "release.json", {"name": "v1", "dataset": dataset})
    return folder / "set" / "release.json"


def via_json(folder: Path, number: int) -> Path:
    """Outlines."""
    rng = np.random.default_rng(0)
    images = {}
    for name in names(folder / "set", number):
        regions = []
        for _ in range(OBJECTS):
            xs, ys = zip(*corners(rng), strict=True)
            shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
            regions.append({"shape_attributes": shape, "region_attributes": {"label": "a"}})
        images[name] = {"filename": name, "regions": regions}
    write_json(folder / "set" / "via.json", images)
    return folder / "set" / "via.json"


def rle_csv(folder: Path, number: int) -> Path:
    """A row for each object."""
    rng = np.random.default_rng(0)
    with (folder / "set.csv").open("w") as file:
        file.write("ImageId,ClassId,EncodedPixels\n")
        for name in names(folder / "images", number):
            os.link(folder / "images" / name, folder / name)
            for _ in range(OBJECTS):
                starts = np.flatnonzero(bitmap(rng).ravel()[::8]) * 8 + 1
                file.write(f"{name},a,{' '.join(f'{start} 8' for start in starts.tolist())}\n")
    return folder / "set.csv"


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    writer.__name__: writer
    for writer in (
        cvat_xml,
        label_studio_json,
        supervisely_dir,
        darwin_dir,
        panoptic_dir,
        segments_json,
        via_json,
        rle_csv,
    )
}


def measure(flag: str, path: Path) -> tuple[float, float]:
    """(seconds, MiB) of reading a set and drawing all masks; the memory beside that of the program alone."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    start = time.perf_counter()
    dataset = read(SourceSettings(**{flag: path}), ReadingSettings(), CocoSettings())
    for example in dataset.examples:
        example.draw(SIDE, SIDE)
    return time.perf_counter() - start, _peak() - before


def _peak() -> float:
    """The largest resident memory of this process, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    """A table of all formats, or of those named."""
    from common import report  # noqa: PLC0415  it imports TensorFlow, which the measured processes do without

    rows = []
    for flag in sys.argv[1:] or WRITERS:
        found = []
        for number in NUMBERS:
            with tempfile.TemporaryDirectory() as folder:
                path = WRITERS[flag](Path(folder), number)
                # A process of its own, whose memory is only its own.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found.append(pool.apply(measure, (flag, path)))
        seconds = [each for each, _ in found]
        growth = seconds[-1] / seconds[0] / (NUMBERS[-1] / NUMBERS[0])
        rows.append((flag, *seconds, growth, *(memory for _, memory in found)))
    header = ("format", *(f"s of {number:,}" for number in NUMBERS), "growth", *(f"MiB of {n:,}" for n in NUMBERS))
    report("convert", header, rows, {f"{row[0]}_growth": row[4] for row in rows})


if __name__ == "__main__":
    main()
