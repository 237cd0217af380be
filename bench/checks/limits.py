"""What the largest inputs cost that are refused: a table of limits with the seconds and the memory of each refusal.

python bench/checks/limits.py > docs/limits.md        (with a word: only cases with it in their name)

Each case is a small or sparse file, or the largest that passes an earlier limit, and runs in a process of its own. Exit
status 1 if a refusal takes more than 2 seconds or 300 MB, or if there is none.
"""

import functools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable, read_classes
from deeplab.data.source.formats import coco, labelme, yolo
from deeplab.data.source.formats.coco import InstancesFile
from deeplab.data.source.images import MAX_BYTES, MAX_PIXELS, read_image
from deeplab.data.source.masks import read_mask
from deeplab.errors import DeepLabError, escaped
from deeplab.run.run_folder import read_config
from deeplab.text import MAX_BYTES as MAX_LIST
from deeplab.text import read_lines
from deeplab.view.report import read_records

SECONDS = 2
MEGABYTES = 300
PATIENCE = 60  # seconds
SIDE = 9460  # of the smallest square with too many pixels
SHAPE = {"label": "cat", "points": [[1, 1], [8, 1], [8, 8]]}

Read = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """An input, the limit in words, and what writes it into a folder and returns the function that reads it."""

    name: str
    limit: str
    write: Callable[[Path], Read]


def picture(read: Callable[[Path], object], side: int) -> Callable[[Path], Read]:
    """A black square of one bit per pixel."""

    def write(folder: Path) -> Read:
        Image.new("1", (side, side)).save(folder / "a.png")
        return functools.partial(read, folder / "a.png")

    return write


def claimed(folder: Path) -> Read:
    """A PNG whose header claims 60000x60000 pixels."""
    Image.new("1", (8, 8)).save(folder / "a.bmp")
    content = bytearray((folder / "a.bmp").read_bytes())
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    (folder / "a.bmp").write_bytes(content)
    return functools.partial(read_image, folder / "a.bmp")


def sparse(read: Callable[[Path], object], num_bytes: int) -> Callable[[Path], Read]:
    """A file of zeros that takes no space."""

    def write(folder: Path) -> Read:
        with (folder / "a").open("wb") as file:
            file.truncate(num_bytes)
        return functools.partial(read, folder / "a")

    return write


def pipe(read: Callable[[Path], object]) -> Callable[[Path], Read]:
    """A pipe that nobody writes to."""

    def write(folder: Path) -> Read:
        os.mkfifo(folder / "a")
        return functools.partial(read, folder / "a")

    return write


def text(read: Callable[[Path], object], content: str, name: str = "a") -> Callable[[Path], Read]:
    """A text file."""

    def write(folder: Path) -> Read:
        (folder / name).write_text(content)
        return functools.partial(read, folder / name)

    return write


def split_list(content: str) -> Callable[[Path], Read]:
    """The list of a split in a data set without images."""

    def write(folder: Path) -> Read:
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
        (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(content)
        return lambda: voc.pairs(folder, "train")

    return write


def coco_file(image: dict | None = None, **entry: object) -> Callable[[Path], Read]:
    """A COCO file of one object in an image of 10x10 pixels, which is read and drawn."""

    def write(folder: Path) -> Read:
        Image.new("RGB", (10, 10)).save(folder / "a.png")
        images = [{"id": 1, "file_name": "a.png", "width": 10, "height": 10, **(image or {})}]
        annotations = [{"id": 1, "image_id": 1, "category_id": 1, **entry}]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        (folder / "a.json").write_text(json.dumps(content))

        def read() -> None:
            for example in coco.read_coco([InstancesFile(folder / "a.json", folder)]).examples:
                example.draw(10, 10)

        return read

    return write


def labelme_file(**shape: object) -> Callable[[Path], Read]:
    """An annotation of labelme with one shape in an image of 10x10 pixels, which is read and drawn."""

    def write(folder: Path) -> Read:
        Image.new("RGB", (10, 10)).save(folder / "a.png")
        (folder / "a.json").write_text(json.dumps({"shapes": [{**SHAPE, **shape}], "imagePath": "a.png"}))

        def read() -> None:
            for example in labelme.read_labelme(folder).examples:
                example.draw(10, 10)

        return read

    return write


def names(count: int) -> str:
    """Lines that differ, of seven digits."""
    return "".join(f"{number:07}\n" for number in range(count))


def coco_instances(path: Path) -> object:
    """Reads a COCO file."""
    return coco.read_coco([InstancesFile(path, path.parent)])


def config(path: Path) -> object:
    """Reads a model.json."""
    return read_config(path.parent)


def runs(counts: object, side: int = 10) -> Callable[[Path], Read]:
    """A COCO file with an object of run lengths."""
    size = {"width": side, "height": side}
    return coco_file(size, segmentation={"size": [side, side], "counts": counts})


ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
BRACKETS = "[" * 10**7
COLONS = "a:" * 2**19
BLANKS = "a:" + " " * (2**20 - 10) + "1:::"
ANY = "regular files"
PIXELS = f"{MAX_PIXELS:,} pixels"

mask = functools.partial(read_mask, classes=ClassTable.of_names(("a", "b")))
any_list = functools.partial(read_lines, what="list")
outline = functools.partial(coco_file, None)

CASES = (
    Case("image of 9460x9460 pixels", f"{PIXELS} (`deeplab.predict --max_pixels`)", picture(read_image, SIDE)),
    Case("mask of 9460x9460 pixels", PIXELS, picture(mask, SIDE)),
    Case("image that claims 60000x60000 pixels", PIXELS, claimed),
    Case("image file of 1 GB", f"{MAX_BYTES:,} bytes", sparse(read_image, 10**9)),
    Case("image file of zeros", "", sparse(read_image, MAX_BYTES)),
    Case("image that is a pipe", ANY, pipe(read_image)),
    Case("class table of 1 GB", "1 MiB", sparse(read_classes, 10**9)),
    Case("class table, one line of 1 MB", "names of 200 characters", text(read_classes, "x" * 2**20)),
    Case("class table of 131,072 names", "255 names", text(read_classes, names(2**17))),
    Case("class table, 1 MB of colons", "", text(read_classes, COLONS)),
    Case("class table, 1 MB of blanks", "", text(read_classes, BLANKS)),
    Case("class table that is a pipe", ANY, pipe(read_classes)),
    Case("list of 1 GB", "16 MiB", sparse(any_list, 10**9)),
    Case("list, one line of 16 MB", "lines of 8,192 characters", split_list("a " * (MAX_LIST // 2))),
    Case("list of one name 8,388,608 times", "1,000,000 lines", split_list("a\n" * (MAX_LIST // 2))),
    Case("list of one name 1,000,000 times", "", split_list("a\n" * 10**6)),
    Case("list that is a pipe", ANY, pipe(any_list)),
    Case("data.yaml of 1 GB", "128 KiB", sparse(yolo.read_yolo, 10**9)),
    Case("data.yaml of brackets", "20 levels", text(yolo.read_yolo, "names: " + "[" * (2**17 - 7))),
    Case("data.yaml, aliases of aliases", "no aliases", text(yolo.read_yolo, ALIASES)),
    Case("data.yaml of 65,526 names", "", text(yolo.read_yolo, "names: [" + "x," * (2**16 - 10) + "]")),
    Case("COCO file, 10 MB of brackets", "Python's depth", text(coco_instances, BRACKETS)),
    Case(
        "model.json, 10 MB of brackets",
        "Python's depth",
        text(lambda it: read_config(it.parent), BRACKETS, "model.json"),
    ),
    Case("metrics.jsonl, 10 MB of brackets", "Python's depth", text(read_records, BRACKETS)),
    Case("1,000,000 run lengths, one negative", "0 or more", runs([0] * 10**6 + [-1, 101])),
    Case("run lengths of 1000000x1000000", "the image's size", runs([10**12], 10**6)),
    Case("compressed run length, 10 MB long", "30 bits", runs("o" * 10**7)),
    Case("1,000,000 compressed run lengths", "the image's pixels", runs("0" * 10**6)),
    Case("outline of 1,000,000 points (COCO)", "100,000 points", outline(segmentation=[[1, 2] * 10**6])),
    Case("outline of 1,000,000 points (labelme)", "100,000 points", labelme_file(points=[[1, 2]] * 10**6)),
    Case("outline to and fro, 50,000 times", "100 times around", outline(segmentation=[[0, 0, 10, 10] * 50_000])),
    Case("point at 1,000,000,000", "twice the longer side", labelme_file(points=[[0, 0], [1e9, 0], [0, 1e9]])),
    Case("label of 10,000,000 characters", "200 characters", labelme_file(label="x" * 10**7)),
)


def _refuse(case: Case, folder: Path, connection: Connection) -> None:
    """In a process of its own: sends the last line, the seconds, and the megabytes that were needed in addition."""
    read = case.write(folder)
    before = _megabytes()
    start = time.process_time()
    try:
        read()
        line = ""
    except DeepLabError as error:
        line = escaped(str(error))
    connection.send((line, time.process_time() - start, _megabytes() - before))


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def refusal(case: Case) -> tuple[str, float, float]:
    """The line, seconds and megabytes of a refusal; no line if there was none within `PATIENCE`."""
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("fork").Process(target=_refuse, args=(case, Path(folder), theirs))
        process.start()
        found = ours.recv() if ours.poll(PATIENCE) else ("", PATIENCE, 0.0)
        process.kill()
        process.join()
        return found[0].replace(f"{folder}/", "").replace(folder, "."), *found[1:]


def main() -> None:
    """Prints the table."""
    word = sys.argv[1] if sys.argv[1:] else ""
    print(
        "# What one file may cost\n\nGenerated by `python bench/checks/limits.py > docs/limits.md`: inputs that are "
        "refused, with the time and the memory\nthat the refusal took. Where no limit is given, the input is as large "
        "as an earlier limit allows.\n\n| input | limit | CPU seconds | MB | line |\n| --- | --- | --- | --- | --- |"
    )
    failed = False
    for case in CASES:
        if word in case.name:
            line, seconds, megabytes = refusal(case)
            bad = not line or seconds > SECONDS or megabytes > MEGABYTES
            failed = failed or bad
            line = line.replace("|", "\\|")
            print(
                f"| {case.name} | {case.limit} | {seconds:.2f} | {megabytes:.0f} | {line} |{' <--' * bad}", flush=True
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
