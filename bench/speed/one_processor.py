"""Measures one thing under the environment that it is started with; bench/speed/processors.py starts it several times.

python bench/speed/one_processor.py step BACKBONE SIZE BATCH       seconds of a training step
python bench/speed/one_processor.py image BACKBONE HEIGHT WIDTH    seconds to segment an image, as deeplab.load does
python bench/speed/one_processor.py onnx FILE HEIGHT WIDTH         the same by ONNX Runtime
python bench/speed/one_processor.py sizes NUMBER                   seconds to evaluate 60 images of this many sizes

Prints "ready", then a figure for each line of standard input.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import deeplab  # before TensorFlow, whose kernels it chooses

CLASSES = tuple(map(str, range(21)))
IMAGES = 60
ROUNDS = 3  # per figure


def timed(run: Callable[[], object], repeats: int = ROUNDS) -> Callable[[], float]:
    """A function that returns the median seconds of this many calls."""

    def measure() -> float:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return measure


def step(backbone: str, size: int, batch_size: int) -> Callable[[], float]:
    """A training step on random crops."""
    import tensorflow as tf  # noqa: PLC0415
    from step import our_step  # noqa: PLC0415

    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)),
        "label": tf.constant(rng.integers(0, len(CLASSES), (batch_size, size, size), np.uint8)),
    }
    return timed(our_step(deeplab.build_deeplabv3(deeplab.ModelConfig(CLASSES, backbone)), batch))


def image(backbone: str, height: int, width: int) -> Callable[[], float]:
    """An image by the Python API."""
    model = deeplab.build_deeplabv3(deeplab.ModelConfig(CLASSES, backbone))
    segmenter = deeplab.Model.from_keras(model, CLASSES)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return timed(lambda: segmenter.segment(pixels), 5 * ROUNDS)


def onnx(path: str, height: int, width: int) -> Callable[[], float]:
    """An image by ONNX Runtime, which does not read oneDNN's variables."""
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    return timed(lambda: session.run(["classes"], {"images": pixels}), 5 * ROUNDS)


def sizes(number: int) -> Callable[[], float]:
    """An evaluation of MobileNetV2 over images of the same number of pixels, within a percent."""
    import tensorflow as tf  # noqa: PLC0415
    from evaluation import draw_split  # noqa: PLC0415

    from deeplab.data.input.settings import EvaluationSettings  # noqa: PLC0415
    from deeplab.evaluator import Evaluator, batches_to_score  # noqa: PLC0415
    from deeplab.model.inference import Predictor  # noqa: PLC0415
    from deeplab.progress import Progress  # noqa: PLC0415
    from deeplab.training.losses import Loss  # noqa: PLC0415

    Progress.is_shown = False
    widths = [240 + index % number for index in range(IMAGES)]
    folder = Path(tempfile.mkdtemp())
    split = draw_split(folder, [(width, round(240 * 240 / width)) for width in widths])
    config = deeplab.ModelConfig(split.class_names, "mobilenet_v2")
    predictor = Predictor(deeplab.build_deeplabv3(config))
    batches = batches_to_score(EvaluationSettings(), split, 1)
    evaluator = Evaluator(tf.distribute.get_strategy(), predictor, Loss(split.num_classes), batches)
    return timed(evaluator, 1)


def main() -> None:
    """Prepares, then measures once for each line of standard input."""
    kind, *arguments = sys.argv[1:]
    values = [int(argument) if argument.isdigit() else argument for argument in arguments]
    measure = {"step": step, "image": image, "onnx": onnx, "sizes": sizes}[kind](*values)  # type: ignore[operator]
    measure()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)
    os._exit(0)  # dropping iterators may block for a minute


if __name__ == "__main__":
    main()
