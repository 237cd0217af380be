"""The pictures of an evaluation in TensorBoard: its first examples, the same each time, and the confusion matrix."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from deeplab.data.input.training_batches import Crop
from deeplab.labels import VOID_LABEL, foreground
from deeplab.training.metrics import confusion_counts, per_cent, scores
from deeplab.view import pictures
from deeplab.view.colors import class_colors
from deeplab.view.pictures import OPACITY

LARGEST_PANEL = 8


def first_batch(crops: Iterable[Crop], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """TensorBoard's pictures of training crops, by tag: the image, and next to it the image with its mask on top."""
    drawn = {}
    shown = [*foreground(class_names), VOID_LABEL]
    texts = {**dict(enumerate(class_names)), VOID_LABEL: "void and padding: not trained on"}
    for name, image, mask in crops:
        row = pictures.side_by_side(Image.fromarray(image), pictures.overlay(image, mask, class_names, shown))
        entries = {index: texts[index] for index in np.unique(mask).tolist() if index in shown}
        legend = pictures.legend(entries, row.width, class_colors(class_names))
        drawn[f"training_crops/{name}"] = np.array(pictures.stack(row, legend))
    return drawn


class Panel:
    """A viewer that draws the first examples of each evaluation; the others need not be copied from the devices.

    Args:
        class_names: names of the masks' classes.
        count: how many examples to draw.
    """

    def __init__(self, class_names: Sequence[str], count: int = LARGEST_PANEL) -> None:
        self._class_names = class_names
        self._count = count
        self._drawn: dict[str, np.ndarray] = {}

    def wants(self, number: int) -> bool:
        """Whether this example of an evaluation is drawn."""
        return number < self._count

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one example: uint8 RGB [height, width, 3], masks uint8 [height, width]."""
        mean_iou = scores(confusion_counts(truth, prediction, len(self._class_names))).mean_iou
        row = pictures.panel(
            image, truth, prediction, self._class_names, opacity=OPACITY, note=f", mIoU {per_cent(mean_iou, 1)}"
        )
        self._drawn[f"predictions/{name}"] = np.array(row)

    def results(self) -> dict[str, object]:
        """Nothing: TensorBoard shows the pictures."""
        return {}

    def pictures(self, confusion: np.ndarray) -> dict[str, np.ndarray]:
        """All pictures of the finished evaluation, uint8 RGB [height, width, 3] by tag; starts the next evaluation.

        confusion: its confusion matrix, integers [classes, classes], rows true.
        """
        matrix = np.array(pictures.confusion_picture(confusion, self._class_names))
        drawn = self._drawn
        self._drawn = {}
        return {"confusion_matrix/of_all_images": matrix, **dict(sorted(drawn.items()))}
