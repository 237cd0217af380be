"""The files of an export in other runtimes: whether they open, which pixels differ, milliseconds an image, memory.

python bench/speed/runtimes.py EXPORT_DIR IMAGE...

For a Python with NumPy, Pillow and what is to be tried of onnxruntime, openvino, ai-edge-litert and tensorflow; others
are left out. Images are resized to 375x500, or to the export's size. Pixels are compared with those of the first
runtime that opens. Each runtime has a process of its own, whose memory is the most that it has held.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (375, 500)
UNCOUNTED = 2
CALLS = 20

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [1, height, width, 3] -> class indices [1, height, width]."""


def _tensorflow(path: Path) -> Segment:
    tf = importlib.import_module("tensorflow")
    serve = tf.saved_model.load(str(path)).signatures["images"]
    return lambda images: serve(images=tf.constant(images))["classes"].numpy()


def _onnxruntime(path: Path) -> Segment:
    session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["classes"], {"images": images})[0]


def _openvino(path: Path) -> Segment:
    openvino = importlib.import_module("openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    place = next(number for number, output in enumerate(compiled.outputs) if "uint8" in str(output.element_type))
    return lambda images: compiled([images])[place]


def _interpreter(path: Path) -> Segment:
    litert = importlib.import_module("ai_edge_litert.interpreter")
    run = litert.Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda images: run(images=images)["classes"]


def _compiled_model(path: Path) -> Segment:
    litert = importlib.import_module("ai_edge_litert.compiled_model")
    model = litert.CompiledModel.from_file(str(path))
    (key,) = model.get_signature_list()
    images_in = model.create_input_buffer_by_name(key, "images")
    results = {
        name: model.create_output_buffer_by_name(key, name) for name in model.get_signature_list()[key]["outputs"]
    }
    shape = model.get_output_tensor_details(key)["classes"]["shape"]

    def segment(images: np.ndarray) -> np.ndarray:
        images_in.write(images)
        model.run_by_name(key, {"images": images_in}, results)
        return results["classes"].read(int(np.prod(shape)), np.uint8).reshape(shape)

    return segment


WAYS: list[tuple[str, str, Callable[[Path], Segment]]] = [
    ("TensorFlow", ".", _tensorflow),
    ("ONNX Runtime", "model.onnx", _onnxruntime),
    ("OpenVINO", "model.onnx", _openvino),
    ("OpenVINO", "model.tflite", _openvino),
    ("OpenVINO", ".", _openvino),
    ("LiteRT, Interpreter", "model.tflite", _interpreter),
    ("LiteRT, CompiledModel", "model.tflite", _compiled_model),
    ("LiteRT, Interpreter", "model_int8.tflite", _interpreter),
    ("LiteRT, CompiledModel", "model_int8.tflite", _compiled_model),
]
"""Runtime, file in the export (`.`: the SavedModel), and how it is opened."""


def main() -> None:
    """Prints a row for each way."""
    export_dir = sys.argv[1]
    expected: np.ndarray | None = None
    print("| runtime | file | equal pixels [%] | one image [ms] | memory [MB] |")
    print("| --- | --- | --- | --- | --- |")
    for number, (runtime, file, _) in enumerate(WAYS):
        if not (Path(export_dir) / file).exists():
            continue
        command = [sys.executable, __file__, export_dir, *sys.argv[2:]]
        environment = os.environ | {"WAY": str(number), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            print(f"| {runtime} | {file} | refused: {words[-1][:120] if words else done.returncode} | | |", flush=True)
            continue
        figures, _, masks = done.stdout.partition(b"\n")
        found = np.frombuffer(masks, np.uint8)
        expected = found if expected is None else expected
        seconds, memory = json.loads(figures)
        share = 100 * np.mean(found == expected)
        print(f"| {runtime} | {file} | {share:.3f} | {1000 * seconds:.0f} | {memory / 2**20:.0f} |", flush=True)


def one_way(number: int) -> None:
    """Writes the seconds of an image and the memory, a line of JSON, and the masks to standard output."""
    export_dir = Path(sys.argv[1])
    _, file, opened = WAYS[number]
    described = json.loads((export_dir / "deeplab.json").read_text())
    height, width = described.get("input_size") or SIZE
    images = [np.asarray(Image.open(path).convert("RGB").resize((width, height)))[np.newaxis] for path in sys.argv[2:]]
    segment = opened(export_dir / file)
    masks = [np.asarray(segment(image), np.uint8) for image in images]
    seconds = []
    for _ in range(UNCOUNTED + CALLS):
        start = time.perf_counter()
        segment(images[0])
        seconds.append(time.perf_counter() - start)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = 1024 * int(status["VmHWM"].split()[0])
    figures = json.dumps([statistics.median(seconds[UNCOUNTED:]), memory])
    sys.stdout.buffer.write(f"{figures}\n".encode() + b"".join(mask.tobytes() for mask in masks))


if __name__ == "__main__":
    if "WAY" in os.environ:
        one_way(int(os.environ["WAY"]))
    else:
        main()
