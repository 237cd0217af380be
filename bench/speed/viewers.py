"""Time of an evaluation with pictures, report and scores of each image over that of the network alone.

By the clock, and of the processor, on which other work on the machine has less influence.

python bench/speed/viewers.py [IMAGES]        default 24

ResNet-50 and MobileNetV2 at stride 16, on the images of the folder in VOC_DIR, else on drawn ones of 500x375. The
variants of a network take turns. On CPUs the viewers work on the cores that the network needs, too.

The weights are random, and so predict one class for most pixels: such masks and error maps compress better than those
of a trained network. Viewers see the truth moved by eight pixels instead, with errors along all borders.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
from common import images_of_vocs_size, ratio, report, take_turns, write_shards

from deeplab import evaluator
from deeplab.data.input.settings import EvaluationSettings
from deeplab.data.shards.split import Split
from deeplab.data.source import voc
from deeplab.evaluator import Evaluator, Viewer, batches_to_score
from deeplab.labels import VOID_LABEL
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig
from deeplab.progress import Progress
from deeplab.training.losses import Loss
from deeplab.view.gallery import Gallery
from deeplab.view.image_scores import ImageScores
from deeplab.view.picture_writer import PictureWriter

IMAGES = 24
MOVED = 8
ROUNDS = 3


class Moved:
    """A viewer that shows another one the truth, moved and without void, instead of the prediction."""

    def __init__(self, viewer: Viewer) -> None:
        self.wants = viewer.wants
        self.results = viewer.results
        self._view = viewer.view

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """As `Viewer.view`."""
        moved = np.roll(truth, (MOVED, MOVED), (0, 1))
        moved[moved == VOID_LABEL] = 0
        self._view(name, image, truth, moved)


def viewers(folder: Path) -> list[Viewer]:
    """All that eval.py has with --output_dir and --report."""
    names = voc.CLASS_NAMES
    return [Moved(ImageScores(names)), Moved(PictureWriter(folder, names)), Moved(Gallery(folder, names))]


def measured(
    predict: Predictor, split: Split, chosen: list[Viewer], large: int, processor: list[float]
) -> Callable[[], float]:
    """A function that returns the seconds of an evaluation; images of more pixels than `large` are viewed at once.

    Appends the seconds of the processor to `processor`.
    """
    batches = batches_to_score(EvaluationSettings(), split, 1)
    evaluate = Evaluator(tf.distribute.get_strategy(), predict, Loss(len(voc.CLASS_NAMES)), batches, viewers=chosen)

    def measure() -> float:
        start = time.perf_counter()
        used = time.process_time()
        with mock.patch.object(evaluator, "LARGE", large):
            evaluate()
        processor.append(time.process_time() - used)
        return time.perf_counter() - start

    return measure


def main() -> None:
    """The table."""
    Progress.is_shown = False
    number = int(sys.argv[1]) if sys.argv[1:] else IMAGES
    rows = []
    figures: dict[str, object] = {"images": number}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = write_shards(folder / "shards", images_of_vocs_size(folder, number))
        for backbone in ("resnet50", "mobilenet_v2"):
            predict = Predictor(build_deeplabv3(ModelConfig(voc.CLASS_NAMES, backbone)))
            variants: dict[str, tuple[list[Viewer], int]] = {
                "the network alone": ([], evaluator.LARGE),
                "all viewers, one after the other": (viewers(folder / "out"), 0),
                "all viewers, in threads": (viewers(folder / "out"), evaluator.LARGE),
            }
            used: dict[str, list[float]] = {words: [] for words in variants}
            seconds = take_turns(
                {words: measured(predict, split, *chosen, used[words]) for words, chosen in variants.items()}, ROUNDS
            )
            for words, values in seconds.items():
                over_alone = ratio(values, seconds["the network alone"])
                processor = [each[1:] for each in (used[words], used["the network alone"])]  # without the warm-up
                rows.append(
                    (
                        f"{backbone}, {words}",
                        statistics.median(values) / number,
                        over_alone,
                        1e3 * statistics.median(processor[0]) / number,
                        ratio(*processor),
                    )
                )
                figures[f"{backbone}, {words}"] = over_alone
    header = ("what", "s an image", "over the network alone", "processor ms an image", "over the network alone")
    report("viewers", header, rows, figures)


if __name__ == "__main__":
    main()
