"""Measures one file of an export; bench/speed/exports.py starts it, and docs/serving.md opens files in the same way.

python bench/speed/one_format.py FILE FOLDER

Segments the images NUMBER.npy of the folder (uint8 [height, width, 3]) into files mask_NUMBER.npy and prints a line of
JSON: seconds to open the file, seconds for one image (500x375, or of the fixed size) and for each of a batch (medians
of 20 calls, on all cores), and the most memory that the process has held until then, in bytes. Imports only what the
format needs.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
UNCOUNTED = 2
CALLS = 20
BATCH = 4

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [batch, height, width, 3] -> class indices [batch, height, width]."""


def main() -> None:
    """Measures, then writes the masks."""
    path = Path(sys.argv[1])
    folder = Path(sys.argv[2])
    images = sorted(folder.glob("[0-9]*.npy"))
    start = time.perf_counter()
    segment = open_format(path)
    opened = time.perf_counter() - start
    fixed = json.loads((path.parent / "deeplab.json").read_text())["input_size"]
    one = np.asarray(Image.fromarray(np.load(images[0])).resize(fixed[::-1] if fixed else SIZE))[np.newaxis]
    figures: dict[str, float | None] = {"opened": opened, "one": median_seconds(segment, one), "of_batch": None}
    if path.suffix != ".tflite" and not fixed:  # those take one image
        figures["of_batch"] = median_seconds(segment, one.repeat(BATCH, 0)) / BATCH
    figures["memory"] = most_memory()
    for image in images:
        np.save(folder / f"mask_{image.name}", segment(np.load(image)[np.newaxis])[0])
    print(json.dumps(figures))


def open_format(path: Path) -> Segment:
    """A function that segments with the file."""
    if path.suffix == ".pb":
        tf = importlib.import_module("tensorflow")
        serve = tf.saved_model.load(str(path.parent)).signatures["images"]
        return lambda images: serve(images=tf.constant(images))["classes"].numpy()
    if path.suffix == ".onnx":
        session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["classes"], {"images": images})[0]
    litert = importlib.import_module("ai_edge_litert.interpreter")
    run = litert.Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda images: run(images=images)["classes"]


def most_memory() -> int:
    """Bytes; from Linux's /proc, since `ru_maxrss` includes the process that started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def median_seconds(segment: Segment, images: np.ndarray) -> float:
    """Seconds of a call."""
    seconds = []
    for _ in range(UNCOUNTED + CALLS):
        start = time.perf_counter()
        segment(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[UNCOUNTED:])


if __name__ == "__main__":
    main()
