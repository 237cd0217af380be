"""Processor time a pixel, and peak memory, of windowed segmentation and evaluation by the image's side.

python bench/speed/large.py [SIDE...]        default 2000 10000

Windows of 513, 21 classes, a process for each row. Images are segmented by MobileNetV2, which takes four minutes at
10,000. They are evaluated by a network of one convolution, from shards and with the scores of each image, as in
eval.py: in one view, and in four with the loss of the hardest pixels.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import peak_megabytes, report, write_voc
from PIL import Image

from deeplab.api import Inference, Model, ModelConfig, build_deeplabv3
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc
from deeplab.distribute.devices import make_strategy
from deeplab.distribute.settings import DeviceSettings
from deeplab.evaluator import Evaluator
from deeplab.labels import VOID_LABEL
from deeplab.model.inference import Predictor
from deeplab.progress import Progress
from deeplab.training.losses import Loss
from deeplab.training.settings import LossSettings
from deeplab.view.image_scores import ImageScores

SIDES = ("2000", "10000")
WINDOW = 513
WINDOWS = Inference(window_size=WINDOW)
VIEWS = Inference((0.75, 1.25), flip=True, window_size=WINDOW)
HARDEST = LossSettings(hard_pixel_fraction=0.25)
NUM_CLASSES = len(voc.CLASS_NAMES)


def pixels(side: int) -> np.ndarray:
    """An image of rows of random colors."""
    image = np.empty((side, side, 3), np.uint8)
    image[:] = np.random.default_rng(0).integers(0, 256, (side, 1, 3))
    return image


def write_shards(folder: Path, side: int) -> None:
    """Shards of one image of this side; its mask has columns of all classes and of void."""
    mask = np.empty((side, side), np.uint8)
    mask[:] = np.array([*range(NUM_CLASSES), VOID_LABEL])[np.arange(side) // 50 % (NUM_CLASSES + 1)]
    pair = voc.Pair("large", str(folder / "image.png"), str(folder / "mask.png"))
    Image.fromarray(pixels(side)).save(pair.image, compress_level=1)
    Image.fromarray(mask).save(pair.mask)
    settings = ShardSettings(voc_dir=write_voc(folder / "voc", [pair]), max_pixels=side**2)
    prepare(settings, folder, "train", voc.CLASS_NAMES)


def segment(side: int) -> float:
    """Seconds of the processor for one image of this side."""
    keras.utils.set_random_seed(1)
    network = build_deeplabv3(ModelConfig(voc.CLASS_NAMES, backbone="mobilenet_v2"))
    model = Model.from_keras(network, voc.CLASS_NAMES, WINDOWS)
    image = pixels(side)
    model.segment(image[: WINDOW + 50, : WINDOW + 50])  # traces
    start = time.process_time()
    model.segment(image)
    return time.process_time() - start


def evaluate(side: int, inference: Inference = WINDOWS, settings: LossSettings = LossSettings()) -> float:
    """As `segment`, with tracing, and with reading and viewing the image."""
    Progress.is_shown = False
    strategy = make_strategy(DeviceSettings(num_gpus=0))
    with strategy.scope():
        images = keras.Input((None, None, 3))
        logits = keras.layers.Conv2D(NUM_CLASSES, 1)(keras.layers.Rescaling(1 / 255)(images))
        predict = Predictor(keras.Model(images, logits), inference)
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--write", str(side), name]
        subprocess.run(command, check=True, capture_output=True)  # in another process, for its memory
        evaluator = Evaluator(
            strategy,
            predict,
            Loss(NUM_CLASSES, settings),
            EvaluationBatches(Split.read(Path(name), "train")),
            viewers=[ImageScores(voc.CLASS_NAMES)],
        )
        start = time.process_time()
        evaluator()
        return time.process_time() - start


def evaluate_views(side: int) -> float:
    """As `evaluate`, all that makes it keep more."""
    return evaluate(side, VIEWS, HARDEST)


WORK: dict[str, Callable[[int], float]] = {
    "segmented": segment,
    "evaluated": evaluate,
    "evaluated, four views, hardest pixels": evaluate_views,
}


def main() -> None:
    """The table; with `--one WORK SIDE`, one measurement; with `--write SIDE FOLDER`, shards for it."""
    if sys.argv[1:2] == ["--write"]:
        write_shards(Path(sys.argv[3]), int(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--one"]:
        print(WORK[sys.argv[2]](int(sys.argv[3])), peak_megabytes())
        return
    rows: list[tuple[str, int, float, float, float]] = []
    figures: dict[str, object] = {}
    for work in WORK:
        first = None
        for side in map(int, sys.argv[1:] or SIDES):
            command = [sys.executable, __file__, "--one", work, str(side)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, megabytes = map(float, output.split())
            time_a_pixel = 1e6 * seconds / side**2
            first = first or time_a_pixel
            rows.append((work, side, time_a_pixel, time_a_pixel / first, megabytes))
            figures |= {f"{work}_time_a_pixel_{side}": time_a_pixel / first, f"{work}_peak_{side}": megabytes}
    header = ("what", "side", "processor us a pixel", "of the first", "peak [MB]")
    report("large", header, rows, figures)


if __name__ == "__main__":
    main()
