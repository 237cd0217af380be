"""The pictures of an evaluation as files: masks, and rows of image, truth, prediction and errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab.view import pictures


class PictureWriter:
    """A viewer that writes masks/NAME.png (the prediction, palettized) and side_by_side/NAME.png (as `panel` draws it).

    Args:
        output_dir: folder for both.
        class_names: names of the masks' classes.
    """

    def __init__(self, output_dir: Path, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._masks = output_dir / "masks"
        self._rows = output_dir / "side_by_side"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._rows.mkdir(parents=True, exist_ok=True)

    def wants(self, number: int) -> bool:
        """Every example is drawn."""
        return True

    def view(self, name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one example: uint8 RGB [height, width, 3], masks uint8 [height, width]."""
        pictures.save(pictures.color_mask(prediction), self._masks / f"{name}.png")
        row = pictures.panel(image, truth, prediction, self._class_names, largest_side=max(truth.shape))
        pictures.save(row, self._rows / f"{name}.png", has_photo=True)

    def results(self) -> dict[str, object]:
        """Nothing: the pictures are files."""
        return {}
