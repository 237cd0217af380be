"""Every image of an evaluation for the report: its scores, both masks in small, and its photo in a file beside it."""

import base64
import json
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.files import atomic_write
from deeplab.labels import has_background
from deeplab.training.metrics import confusion_counts, scores
from deeplab.view.colors import class_colors
from deeplab.view.template import Markup

PHOTOS = "report_images"
"""The folder beside the report."""

_PHOTO_SIDE = 640
_MASK_SIDE = 320
"""Pixels of the longest side: of photos, and of the masks in the page, which are drawn over them."""


class Gallery:
    """A viewer that writes each photo beside the report, and keeps what the page shows of its masks.

    Args:
        folder: of the report.
        class_names: names of the masks' classes.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self._folder = folder
        self._class_names = class_names
        self._entries: dict[str, dict[str, object]] = {}

    def wants(self, number: int) -> bool:
        """Every example is shown."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one example: uint8 RGB [height, width, 3], masks uint8 [height, width]."""
        path = self._folder / PHOTOS / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(image)
        photo.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
        with atomic_write(path) as temporary:
            photo.save(temporary, "JPEG", quality=85)

        # Scores at the image's own size, over the classes in either mask.
        matrix = confusion_counts(truth, prediction, len(self._class_names))
        result = scores(matrix)
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
        present = [index for index, iou in enumerate(result.per_class_iou) if iou is not None]
        small = [_reduced(mask) for mask in (truth, prediction)]
        self._entries[name] = {
            "name": name,
            "photo": f"{PHOTOS}/{urllib.parse.quote(name)}.jpg",
            "size": [*truth.shape[::-1]],
            "grid": [*small[0].shape[::-1]],
            "mean": _rounded(result.mean_iou),
            "iou": {index: _rounded(result.per_class_iou[index]) for index in present},
            "wrong": {index: int(wrong[index]) for index in present},
            "masks": _packed(*small),
        }

    def results(self) -> Mapping[str, object]:
        """Nothing: the report shows the images."""
        return {}

    def data(self, before: Mapping[str, float | None]) -> Markup:
        """What the page's script reads, as JSON; `before` has the mean IoU of images in another evaluation, by name."""
        images = [entry | {"before": _rounded(before.get(name))} for name, entry in sorted(self._entries.items())]
        colors = class_colors(self._class_names)[: len(self._class_names)].tolist()
        content = {
            "names": [*self._class_names],
            "colors": colors,
            "background": has_background(self._class_names),
            "images": images,
        }
        # No character of a name can end the element that holds it.
        return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def _reduced(mask: np.ndarray) -> np.ndarray:
    """A mask at the size for the page: uint8 [height, width]."""
    scale = min(_MASK_SIDE / max(mask.shape), 1)
    size = (max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1))
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _packed(truth: np.ndarray, prediction: np.ndarray) -> str:
    """Two masks of one size as base64 of zlib: the truth, then the exclusive or of both, which is mostly 0."""
    return base64.b64encode(zlib.compress(truth.tobytes() + (truth ^ prediction).tobytes())).decode()


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
