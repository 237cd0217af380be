"""Mean IoU near the boundaries of objects: in trimaps of growing width (arXiv 1802.02611, section 4.4 and figure 5)."""

import threading

import numpy as np

from deeplab.training.metrics import confusion_counts, scores

TRIMAP_WIDTHS = (1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 35, 40)
"""Pixels; the papers' curves go from 1 to 40."""

_MARGIN = max(TRIMAP_WIDTHS) + 1
"""Rows: a boundary in the last of a trimap is seen by the next row."""

_PIXELS_AT_ONCE = 2**22
"""Each takes some 20 bytes while its distance from a boundary is found."""


class BoundaryScores:
    """An evaluation viewer that counts the pixels near true boundaries.

    A boundary is where two 4-connected neighbors have different labels. In a data set with a void border between
    objects, such as VOC, the boundaries are the two edges of that border. A trimap of width w contains the pixels at
    most w pixels, in height and in width, from the nearest boundary pixel; void is not counted.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._adding = threading.Lock()
        self._counts = {width: np.zeros((num_classes, num_classes), np.int64) for width in TRIMAP_WIDTHS}

    def wants(self, number: int) -> bool:
        """Every example counts."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds one example; masks are uint8 [height, width]."""
        height, columns = truth.shape
        rows = max(_PIXELS_AT_ONCE // columns, 1)
        for top in range(0, height, rows):
            # A band of rows, with those around it that its trimaps depend on.
            first = max(top - _MARGIN, 0)
            boundary = boundaries(truth[first : top + rows + _MARGIN])
            band = slice(top, top + rows)
            self._add(boundary, top - first, truth[band], prediction[band])

    def _add(self, boundary: np.ndarray, above: int, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds a band of rows; that many rows of `boundary` are above it."""
        for width, counts in self._counts.items():
            near = dilate(boundary, width)[above : above + len(truth)]
            found = confusion_counts(truth[near], prediction[near], self._num_classes)
            with self._adding:
                np.add(counts, found, out=counts)

    def results(self) -> dict[str, dict[int, float | None]]:
        """`boundary_mean_iou`: trimap width in pixels -> mean IoU as a fraction; None without a boundary."""
        return {"boundary_mean_iou": {width: scores(counts).mean_iou for width, counts in self._counts.items()}}


def boundaries(labels: np.ndarray) -> np.ndarray:
    """The pixels whose upper, lower, left or right neighbor has another label: bool [height, width]."""
    edge = np.zeros(labels.shape, bool)
    for near, far in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = labels[near] != labels[far]
        edge[near] |= differs
        edge[far] |= differs
    return edge


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """The pixels with a True pixel in the surrounding square of side 2 radius + 1: bool [height, width]."""
    for _ in range(2):  # columns, then rows
        sums = np.cumsum(np.pad(mask, ((radius + 1, radius), (0, 0))), 0, dtype=np.int64)
        mask = (sums[2 * radius + 1 :] > sums[: -(2 * radius + 1)]).T
    return mask
