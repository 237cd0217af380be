"""Two of the same at once, with one target: trainings, conversions, downloads and exports.

python bench/checks/doubles.py FOLDER [TIMES] [conversion|download|export|training ...]        TIMES: default 20

The two differ, so that a mixture would show, and the second begins at a random moment of the first. Downloads both end
well; of the others, exactly one does, and the other is refused by name, with status 2. What is there at the end is file
by file what the one that ended well writes alone. Prints a table and a JSON line; exit status 1 for anything else.
"""

import functools
import hashlib
import io
import json
import logging
import multiprocessing
import os
import random
import runpy
import shutil
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tensorflow as tf  # once for all, before the processes are forked
from PIL import Image

from deeplab.data.source import shapes
from deeplab.data.source.download import download_voc

ROOT = Path(__file__).resolve().parents[2]
REFUSED = 2
MINUTES = 5
SMALL = (
    *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=2"),
    *("--train_steps=2", "--checkpoint_steps=1", "--log_every_steps=1", "--num_shards=2", "--deterministic"),
)
UNLIKE = (".tfevents", "saved_model.pb", "fingerprint.pb", "starts.jsonl", ".lock", "flags.txt", ".data-")
"""Parts of the names of files that differ from one time to the next: they hold times, or an order of no meaning."""
_FORK = multiprocessing.get_context("fork")

Tree = dict[str, str]
Start = Callable[[Path], None]


def program(*arguments: str) -> Start:
    """Starts a program of the project; {target} is the folder to write."""

    def start(target: Path) -> None:
        words = [each.format(target=target) for each in arguments]
        os.chdir(ROOT)
        sys.argv = words[1:] if words[0] == "-m" else words
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")

    return start


def download(url: str, md5: str) -> Start:
    """Starts a download; the program knows only the checksum of the true archive."""

    def start(target: Path) -> None:
        download_voc(target, url, md5)

    return start


def _run(start: Start, target: Path, log: Path, delay: float) -> None:
    """In a process of its own."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    time.sleep(delay)
    start(target)


def together(starts: list[Start], target: Path, delays: list[float]) -> list[tuple[int | None, str]]:
    """Exit status and last line of each."""
    logs = [target.with_name(f"{number}.log") for number in range(len(starts))]
    processes = [
        _FORK.Process(target=_run, args=(start, target, log, delay))
        for start, log, delay in zip(starts, logs, delays, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60 * MINUTES)
        process.kill()
        process.join()
    lines = [(log.read_text(errors="replace").splitlines() or [""])[-1] for log in logs]
    return [(process.exitcode, line) for process, line in zip(processes, lines, strict=True)]


def tree(folder: Path) -> Tree:
    """The digest of each file; of those that differ from one time to the next, nothing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in UNLIKE):
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    """The content of a file, without the seconds and bytes that a run measures."""
    if path.suffix == ".index":
        return _weights(path)
    if path.suffix not in (".jsonl", ".json"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return json.dumps([_plain(json.loads(line)) for line in lines]).encode()


def _weights(index: Path) -> bytes:
    """The digests of a checkpoint's numbers; it also holds a graph of objects in any order, and seeds of dropout."""
    reader = tf.train.load_checkpoint(str(index.with_suffix("")))
    types = reader.get_variable_to_dtype_map()
    names = sorted(name for name, dtype in types.items() if "VARIABLE_VALUE" in name and dtype.is_floating)
    return b"".join(name.encode() + hashlib.sha256(reader.get_tensor(name)).digest() for name in names)


def _plain(record: object) -> object:
    if not isinstance(record, dict):
        return record
    measured = ("second", "time", "memory", "checkpoint")
    return {key: _plain(value) for key, value in record.items() if not any(part in key for part in measured)}


def survey(name: str, starts: list[Start], folder: Path, times: int, rng: random.Random) -> Counter[str]:
    """How the pairs ended."""
    folder = folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    alone: list[Tree] = []
    seconds = 0.0
    for number, start in enumerate(starts):
        begin = time.monotonic()
        target = folder / f"alone{number}" / "target"
        target.parent.mkdir()
        ((status, line),) = together([start], target, [0])
        seconds = time.monotonic() - begin
        if status != 0:
            sys.exit(f"{name}: status {status} alone: {line}")
        alone.append(tree(target))
    outcomes: Counter[str] = Counter()
    for number in range(times):
        target = folder / f"{number}" / "target"
        target.parent.mkdir()
        delays = [0, rng.uniform(0, seconds / 2)]
        rng.shuffle(delays)
        ends = together(starts, target, delays)
        outcome = _outcome(name, ends, tree(target), alone, target.parent)
        outcomes[outcome] += 1
        print(f"{time.strftime('%X')} {name} {number}: {outcome}", file=sys.stderr, flush=True)
    return outcomes


def _outcome(name: str, ends: list[tuple[int | None, str]], found: Tree, alone: list[Tree], folder: Path) -> str:
    """In words; begins with `wrong` for what must not be."""
    left = [path.name for path in folder.iterdir() if path.name not in ("target", "0.log", "1.log", "voc.tar")]
    statuses = [status for status, _ in ends]
    well = [number for number, status in enumerate(statuses) if status == 0]
    refusals = [line for status, line in ends if status == REFUSED]
    if left:
        return f"wrong: {left} are left"
    if len(well) + len(refusals) < len(ends) or not well:
        return f"wrong: {ends}"
    if name == "training" and len(well) == len(ends):
        return "one after the other" if found in alone else "wrong: a mixture"
    if not any(found == alone[number] for number in well):
        differ = [each for each in found if found[each] not in {tree.get(each) for tree in alone}]
        return f"wrong: a mixture, {differ[:5]}"
    if not refusals:
        return "both well" if name == "download" else "wrong: both"
    words = ("in use by", "exists already", "holds a run with")
    return next((f"one, the other: {word}" for word in words if word in refusals[0]), f"wrong: {refusals[0]}")


@contextmanager
def archive_server(folder: Path) -> Iterator[tuple[str, str]]:
    """(address, MD5) of a small archive in VOC's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "voc.tar", "w") as tar:
        for number in range(40):
            info = tarfile.TarInfo(f"VOCdevkit/VOC2012/JPEGImages/{number}.jpg")
            info.size = 200_000
            tar.addfile(info, io.BytesIO(random.Random(number).randbytes(info.size)))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/voc.tar", hashlib.md5((folder / "voc.tar").read_bytes()).hexdigest()
    server.shutdown()


def write_labelme(folder: Path, label: str, seed: int) -> None:
    """Forty annotated images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        noise = np.random.default_rng([seed, number]).integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        shape = {"label": label, "points": [[1, 1], [80, 1 + seed], [80, 80]]}
        (folder / f"{number}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{number}.png"}))


def prepare(shared: Path) -> None:
    """Annotations of two kinds, shards, and two runs."""
    if (shared / "ready").exists():
        return
    shutil.rmtree(shared, ignore_errors=True)
    for seed, label in enumerate(("cat", "dog")):
        write_labelme(shared / label, label, seed)
    shapes.write_shapes(shared / "data", num_train=8, num_val=4)
    for rate in ("0.01", "0.02"):
        start = program("train.py", f"--voc_dir={shared}/data", *_training(shared, rate))
        ((status, line),) = together([start], shared / f"run{rate}", [0])
        if status != 0:
            sys.exit(line)
    (shared / "ready").touch()


def _training(shared: Path, rate: str) -> tuple[str, ...]:
    return (f"--tfrecord_dir={shared}/shards", "--model_dir={target}", f"--learning_rate={rate}", *SMALL)


def main() -> None:
    """Runs the kinds that are asked for."""
    logging.getLogger("deeplab").setLevel(logging.WARNING)
    folder = Path(sys.argv[1]).resolve()
    times = int(sys.argv[2]) if sys.argv[2:] else 20
    shared = folder / "shared"
    prepare(shared)
    convert = ("-m", "deeplab.data.convert", "--voc_dir={target}")
    export = ("-m", "deeplab.export", "--export_dir={target}")
    with archive_server(shared / "www") as (url, md5):
        kinds: dict[str, list[Start]] = {
            "conversion": [program(*convert, f"--labelme_dir={shared}/{label}") for label in ("cat", "dog")],
            "download": [download(url, md5)] * 2,
            "export": [program(*export, f"--model_dir={shared}/run{rate}") for rate in ("0.01", "0.02")],
            "training": [program("train.py", *_training(shared, rate)) for rate in ("0.01", "0.02")],
        }
        rng = random.Random(0)
        names = sys.argv[3:] or list(kinds)
        results = {name: survey(name, kinds[name], folder, times, rng) for name in names}
    print("| two at once | times | how they ended |\n| --- | --- | --- |")
    for name, outcomes in results.items():
        words = ", ".join(f"{outcome} {number}" for outcome, number in outcomes.most_common())
        print(f"| {name} | {times} | {words} |")
    print(json.dumps({"bench": "doubles", "outcomes": results}))
    sys.exit(any(outcome.startswith("wrong") for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    main()
