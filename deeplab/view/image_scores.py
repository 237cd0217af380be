"""The scores of each image of an evaluation, as a table: `per_image.csv`."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from deeplab.labels import VOID_LABEL
from deeplab.training.metrics import confusion_counts, scores

PER_IMAGE = "per_image.csv"


class ImageScores:
    """A viewer that scores each image on its own.

    Args:
        class_names: names of the masks' classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._rows: dict[str, list[object]] = {}
        self._mean_ious: dict[str, float | None] = {}

    def wants(self, number: int) -> bool:
        """Every example counts."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Scores one example: uint8 RGB [height, width, 3], masks uint8 [height, width]."""
        result = scores(confusion_counts(truth, prediction, len(self._class_names)))
        void_share = float((truth == VOID_LABEL).mean())
        fractions = [void_share, result.pixel_accuracy, result.mean_iou, *result.per_class_iou]
        self._mean_ious[name] = result.mean_iou
        self._rows[name] = [name, *truth.shape, *("" if each is None else f"{each:.6f}" for each in fractions)]

    @property
    def mean_ious(self) -> dict[str, float | None]:
        """The mean IoU of each image, a fraction, by name."""
        return self._mean_ious

    def results(self) -> Mapping[str, object]:
        """Nothing: the table is a file of its own."""
        return {}

    def as_csv(self, order: Sequence[str]) -> str:
        """The table, with a row for each of these images: fractions, empty where a score does not exist.

        Columns: name; height and width in pixels; the share of void; pixel accuracy; mean IoU over the classes in the
        true or the predicted mask; IoU of each class.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        ious = [f"iou {name}" for name in self._class_names]
        writer.writerow(["name", "height", "width", "void_share", "pixel_accuracy", "mean_iou", *ious])
        writer.writerows(self._rows[name] for name in order)
        return text.getvalue()
