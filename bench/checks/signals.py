"""SIGTERM in every phase of every program: the exit status, the seconds until the end, and what is left.

python bench/checks/signals.py FOLDER [PHASE ...] > docs/signals.md        TIMES=n: signals for each phase, default 3

Each time, the program starts in an empty folder; the signal comes at a random moment of the phase. A phase is passed if
all times the status is the documented one within ten seconds, the last line is no traceback, and no file is half there:
no scratch file or folder, no checkpoint without its index, no picture or JSON that cannot be read. Exit status 1 unless
all are passed. The app needs an environment with Gradio (requirements-app.lock); without it, it is left out.
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.source import shapes

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10
MINUTES = 5
"""A phase that does not come within this time counts as missed."""
STOPPED = 75
SMALL = (
    *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=4"),
    *("--train_steps=100000", "--batch_norm_momentum=0.8", "--log_every_steps=1", "--num_shards=2"),
)
TRAIN = ("train.py", "--tfrecord_dir={shared}/shards", "--model_dir={own}/run", *SMALL)
NEW = ("--tfrecord_dir={own}/shards", "--model_dir={own}/run")
RUN = "--model_dir={shared}/run"
EVAL = ("eval.py", RUN, "--tfrecord_dir={shared}/shards", "--output_dir={own}/eval", "--num_gpus=0")


@dataclass(frozen=True)
class Phase:
    """A phase of a program.

    Attributes:
        arguments: of Python. {shared} is the folder of what all phases use, {own} an empty one.
        begins: a text in the output, or a pattern of a file in {own}; empty for the start of the process.
        lasts: seconds within which the signal comes.
        status: the documented exit status.
        keeps: the end of the name of a file that is there to resume.
    """

    arguments: tuple[str, ...]
    begins: str
    lasts: float
    status: int = STOPPED
    keeps: str = "no such file"
    environment: tuple[tuple[str, str], ...] = ()


CONVERT = ("-m", "deeplab.data.convert", "--labelme_dir={shared}/drawn", "--voc_dir={own}/set")
WORKERS = (("TF_CONFIG", "{cluster}"),)
PHASES = {
    "start": Phase(TRAIN, "", 3),
    "download": Phase(
        (*("train.py", "--download", "--voc_dir={own}/VOC2012", "--voc_url={url}"), *NEW),
        "*.tar.part",
        1,
        keeps=".tar.part",
    ),
    "preparation": Phase(("train.py", "--prepare_only", "--voc_dir={shared}/data", *NEW), "shards/.*.part", 0.2),
    "conversion": Phase(CONVERT, ".set.*.part", 0.5),
    "building": Phase(TRAIN, "1 CPU replica", 3),
    "connecting": Phase(TRAIN, "waiting for all of", 3, environment=WORKERS),
    "tracing": Phase(TRAIN, "the step is traced", 5),
    "step": Phase((*TRAIN, "--eval_every_epochs=1000"), "step 2/", 2),
    "evaluation": Phase((*TRAIN, "--eval_every_epochs=1"), "step 16/", 6),
    "checkpoint": Phase((*TRAIN, "--checkpoint_steps=1", "--eval_every_epochs=1000"), "step 2/", 3),
    "evaluation by eval.py": Phase(EVAL, "1 CPU replica", 8),
    "export": Phase(("-m", "deeplab.export", RUN, "--export_dir={own}/export", "--tflite"), ".export.*.part", 15),
    "predict": Phase(
        ("-m", "deeplab.predict", RUN, "--output_dir={own}/out", "{shared}/data/JPEGImages"), "out/masks/*.png", 2
    ),
    "look": Phase(("-m", "deeplab.look", "--voc_dir={shared}/data", "--page={own}/look.html"), "classes: ", 2),
    "app": Phase(("-m", "deeplab.app", RUN, "--port={port}"), "open it in a browser", 2, status=0),
}


class Slow(BaseHTTPRequestHandler):
    """An archive that comes slowly, and never ends."""

    def do_GET(self) -> None:
        """Sends it."""
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 20))
                time.sleep(0.05)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of an archive that comes slowly."""
    slow = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{slow.server_port}/slow.tar"
    slow.shutdown()


def prepare(shared: Path) -> None:
    """What the phases use: drawn shapes, annotations, shards, and a run of two steps."""
    if (shared / "run").exists():
        return
    shutil.rmtree(shared, ignore_errors=True)
    shapes.write_shapes(shared / "data", num_train=64, num_val=150)
    (shared / "drawn").mkdir()
    for number in range(300):
        noise = np.random.default_rng(number).integers(0, 256, (300, 400, 3), np.uint8)
        Image.fromarray(noise).save(shared / "drawn" / f"{number}.png")
        shape = {"label": "cat", "points": [[1, 1], [80, 1], [80, 80]]}
        content = {"shapes": [shape], "imagePath": f"{number}.png"}
        (shared / "drawn" / f"{number}.json").write_text(json.dumps(content))
    places = (f"--voc_dir={shared}/data", f"--tfrecord_dir={shared}/shards", f"--model_dir={shared}/run")
    command = [sys.executable, "train.py", *places, *SMALL, "--train_steps=2"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def stop(phase: Phase, shared: Path, own: Path, url: str, rng: random.Random) -> tuple[int, float, str]:
    """Status, seconds until the end, and what is wrong, if anything."""
    shutil.rmtree(own, ignore_errors=True)
    (own / "tmp").mkdir(parents=True)
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    cluster = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}})
    words = {"shared": str(shared), "own": str(own), "url": url, "port": str(free_port()), "cluster": cluster}
    environment = {name: value.format(**words) for name, value in phase.environment}
    command = [sys.executable, *(argument.format(**words) for argument in phase.arguments)]
    with (own / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "TMPDIR": str(own / "tmp")},
            stdout=log,
            stderr=log,
        )
    limit = time.monotonic() + 60 * MINUTES
    while not has_begun(phase, own) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, phase.lasts))
    ended_before = process.poll() is not None
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    seconds = time.monotonic() - start
    text = (own / "log").read_text()
    last = (text.splitlines() or [""])[-1]
    if ended_before:
        return status, seconds, f"ended before the signal: {last}"
    wrong = "; ".join(half_files(own, phase.keeps))
    if status != phase.status or seconds > SECONDS or "Traceback" in text:
        wrong = f"{wrong}; {last}"
    return status, seconds, wrong


def has_begun(phase: Phase, own: Path) -> bool:
    """Whether the phase has begun."""
    return phase.begins in (own / "log").read_text() or ("*" in phase.begins and any(own.glob(phase.begins)))


def half_files(folder: Path, keeps: str) -> Iterator[str]:
    """What is in a folder and not whole."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.endswith(keeps) or path.is_dir():
            continue
        if name.endswith(".part") or "_temp" in name or name.startswith("tmp/"):
            yield f"{name} is left"
        elif ".data-" in name and not path.with_suffix(".index").exists():
            yield f"{name} has no index"
        elif path.suffix in (".png", ".json", ".html"):
            try:
                check_whole(path)
            except (OSError, ValueError, SyntaxError) as error:
                yield f"{name}: {error}"


def check_whole(path: Path) -> None:
    """Raises an error of the file's format if it is not whole."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("no end")


def main() -> None:
    """Prints the table."""
    folder = Path(sys.argv[1]).resolve()
    times = int(os.environ.get("TIMES", "3"))
    shared = folder / "shared"
    prepare(shared)
    rng = random.Random(0)
    failed = False
    print(
        "# Signals\n\nGenerated by `python bench/checks/signals.py FOLDER > docs/signals.md`: SIGTERM at a random\n"
        "moment of each phase. *Left*: scratch files and files that are not whole; a download keeps its part, to go on "
        "with it.\n\n| phase | times | exit status | longest, seconds | left |\n| --- | --- | --- | --- | --- |"
    )
    with server() as url:
        for name in sys.argv[2:] or PHASES:
            phase = PHASES[name]
            if name == "app" and importlib.util.find_spec("gradio") is None:
                print("the app is left out: Gradio is not installed", file=sys.stderr)
                continue
            outcomes = [stop(phase, shared, folder / "own", url, rng) for _ in range(times)]
            statuses = " ".join(map(str, sorted({status for status, _, _ in outcomes})))
            wrong = "; ".join(filter(None, (wrong for _, _, wrong in outcomes)))
            failed = failed or bool(wrong)
            longest = max(seconds for _, seconds, _ in outcomes)
            print(f"| {name} | {times} | {statuses} | {longest:.1f} | {wrong or 'nothing'} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
