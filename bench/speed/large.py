"""Processor time a pixel, and peak memory, of windowed segmentation by the image's side.

python bench/speed/large.py [SIDE...]        default 2000 10000

MobileNetV2, 21 classes, windows of 513, a process for each side. At 10,000 it takes four minutes.
"""

import subprocess
import sys
import time

import keras
import numpy as np
from common import peak_megabytes, report

from deeplab.api import Inference, Model, ModelConfig, build_deeplabv3
from deeplab.data.source import voc

SIDES = ("2000", "10000")
WINDOW = 513


def measure(side: int) -> None:
    """Prints seconds of the processor and megabytes for one image of this side."""
    keras.utils.set_random_seed(1)
    network = build_deeplabv3(ModelConfig(voc.CLASS_NAMES, backbone="mobilenet_v2"))
    model = Model.from_keras(network, voc.CLASS_NAMES, Inference(window_size=WINDOW))
    image = np.empty((side, side, 3), np.uint8)
    image[:] = np.random.default_rng(0).integers(0, 256, (side, 1, 3))
    model.segment(image[: WINDOW + 50, : WINDOW + 50])  # traces
    start = time.process_time()
    model.segment(image)
    print(time.process_time() - start, peak_megabytes())


def main() -> None:
    """The table; with `--one SIDE`, one measurement."""
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
        return
    rows: list[tuple[int, float, float, float]] = []
    for side in map(int, sys.argv[1:] or SIDES):
        command = [sys.executable, __file__, "--one", str(side)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, megabytes = map(float, output.split())
        rows.append((side, 1e6 * seconds / side**2, seconds / side**2 / (rows[0][1] / 1e6) if rows else 1.0, megabytes))
    figures: dict[str, object] = {f"time_a_pixel_{side}": share for side, _, share, _ in rows}
    report("large", ("side", "processor us a pixel", "of the first", "peak [MB]"), rows, figures)


if __name__ == "__main__":
    main()
