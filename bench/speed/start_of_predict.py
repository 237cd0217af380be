"""Seconds from the shell to the mask of one image: by part, and beside another checkout and ONNX Runtime.

python bench/speed/start_of_predict.py RUN IMAGE

The environment variable OTHER_CHECKOUT names another checkout of this project, and ORT_PYTHON a Python with onnxruntime
and Pillow, which segments the image with RUN exported to ONNX. Both are left out if they are not set. Programs take
turns; beside the seconds of the clock are those of the processor, which depend less on what else runs.
"""

import gc
import importlib
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3

OF_ONNX_RUNTIME = """
import sys
import numpy as np
import onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
classes = session.run(["classes"], {"images": image[None]})[0]
Image.fromarray(classes[0]).save(sys.argv[3])
"""


def main() -> None:
    """The table of parts, in this process, then that of whole programs."""
    run, image = sys.argv[1:]
    parts = seconds_of_parts(Path(run), Path(image))
    whole = seconds_of_programs(run, image)

    common = importlib.import_module("common")
    figures = {name: processor for name, _, processor in parts}
    common.report("start_of_predict, parts", ("part", "seconds", "of the processor"), parts, figures)
    ours = whole["deeplab.predict"]
    rows = []
    for name, measured in whole.items():
        clock, processor = (statistics.median(each) for each in zip(*measured, strict=True))
        ratios = [common.ratio([a[part] for a in ours], [b[part] for b in measured]) for part in (0, 1)]
        rows.append((name, clock, processor, *ratios))
    header = ("program", "seconds", "of the processor", "ours over it", "of the processor")
    common.report("start_of_predict", header, rows, {name: list(figures) for name, *figures in rows})


def seconds_of_parts(run: Path, image: Path) -> list[tuple[str, float, float]]:
    """What `deeplab.predict` does until its first mask: (part, seconds of the clock, of the processor)."""
    marks = [("", time.perf_counter(), time.process_time())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter(), time.process_time()))

    # Without looking for garbage, as programs do.
    gc.disable()
    importlib.import_module("tensorflow")
    mark("import TensorFlow and Keras")
    sys.path.insert(0, str(ROOT))
    importlib.import_module("deeplab.commands.predict.program")
    gc.freeze()
    gc.enable()
    mark("import deeplab")
    network, _, _ = importlib.import_module("deeplab.run.run_folder").load_model(run)
    mark("build the network, restore it")
    predictor = importlib.import_module("deeplab.model.inference").Predictor(network)
    mark("fold batch normalization")
    pixels = importlib.import_module("deeplab.data.source.images").read_image(image)
    segment = importlib.import_module("deeplab.api").make_segmenter(predictor, with_probabilities=False)
    segment.get_concrete_function()
    mark("read the image, trace")
    segment(pixels[None])["classes"].numpy()
    mark("first image, with graph optimisation")
    segment(pixels[None])["classes"].numpy()
    mark("(a second image)")
    pairs = itertools.pairwise(marks)
    return [(name, end - start, cpu_end - cpu) for (_, start, cpu), (name, end, cpu_end) in pairs]


def seconds_of_programs(run: str, image: str) -> dict[str, list[tuple[float, float]]]:
    """For each program and round: seconds of the clock and of the processor."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        predict = ["-m", "deeplab.predict", f"--model_dir={run}", f"--output_dir={folder / 'masks'}", image]
        programs: dict[str, tuple[list[str | Path], Path]] = {"deeplab.predict": ([sys.executable, *predict], ROOT)}
        if other := os.environ.get("OTHER_CHECKOUT"):
            programs["that of the other checkout"] = ([sys.executable, *predict], Path(other))
        if python := os.environ.get("ORT_PYTHON"):
            export = ["-m", "deeplab.export", f"--model_dir={run}", f"--export_dir={folder / 'exported'}", "--onnx"]
            seconds_of([sys.executable, *export], ROOT)
            onnx = folder / "exported" / "model.onnx"
            script: list[str | Path] = [python, "-c", OF_ONNX_RUNTIME, onnx, image, folder / "mask.png"]
            programs["a script with ONNX Runtime"] = (script, ROOT)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for _ in range(ROUNDS):
            for name, (command, directory) in programs.items():
                measured[name].append(seconds_of(command, directory))
    return measured


def seconds_of(command: Sequence[str | Path], directory: Path) -> tuple[float, float]:
    """Runs a program: seconds of the clock and of the processor."""
    environment = os.environ | {"PYTHONPATH": str(directory)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
