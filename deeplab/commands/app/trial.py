"""A picture that was segmented on the page of `deeplab.app`, and what the page shows of it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.labels import foreground
from deeplab.view import pictures
from deeplab.view.colors import class_colors

_LARGEST_SIDE = 1280
"""Pixels of a picture on the page; the files to download have the size of the picture."""


@dataclass(frozen=True)
class Trial:
    """A picture and its segmentation.

    The page shows pictures of more than 1280 pixels reduced: every `step`-th pixel of each row and column.

    Attributes:
        folder: for the files to download.
        name: of the picture, without ending.
        image: uint8 RGB [height, width, 3].
        mask: class indices, uint8 [height, width].
        probabilities: of the pixels shown, float32 [ceil(height / step), ceil(width / step), classes].
        step: 1 or more.
        class_names: by index.
    """

    folder: Path
    name: str
    image: np.ndarray
    mask: np.ndarray
    probabilities: np.ndarray
    step: int
    class_names: Sequence[str]

    @classmethod
    def of(
        cls,
        folder: Path,
        name: str,
        image: np.ndarray,
        mask: np.ndarray,
        probabilities: np.ndarray,
        class_names: Sequence[str],
    ) -> "Trial":
        """With `probabilities` of all pixels, of which only those shown are kept."""
        step = math.ceil(max(mask.shape) / _LARGEST_SIDE)
        return cls(folder, name, image, mask, probabilities[::step, ::step].copy(), step, class_names)

    @cached_property
    def texts(self) -> dict[int, str]:
        """Name and share of each class in the mask, the largest first: `dog 41.3%`; none of 0.0%."""
        shares = {index: f"{share:.1%}" for index, share in pictures.class_shares(self.mask)}
        return {index: f"{self.class_names[index]} {share}" for index, share in shares.items() if share != "0.0%"}

    @property
    def swatches(self) -> dict[int, str]:
        """The color of each class of `texts`, `#rrggbb`."""
        colors = class_colors(self.class_names)
        return {index: f"#{colors[index].tobytes().hex()}" for index in self.texts}

    @property
    def foreground(self) -> list[int]:
        """The classes of `texts` except a background."""
        return [index for index in self.texts if index in foreground(self.class_names)]

    def layers(self, shown: Collection[int]) -> tuple[np.ndarray, list[tuple[np.ndarray, str]], dict[str, str]]:
        """The picture, and the `shown` classes in the mask, as pixels that are 1 and a text; the colors of the texts.

        All at the size on the page: uint8 RGB [height, width, 3], float [height, width]. Colors are `#rrggbb`.
        """
        mask = self.mask[:: self.step, :: self.step]
        shown_texts = {index: text for index, text in self.texts.items() if index in shown}
        colors = {text: self.swatches[index] for index, text in shown_texts.items()}
        layers = [((mask == index).astype(float), text) for index, text in shown_texts.items()]
        return np.array(Image.fromarray(self.image).reduce(self.step)), layers, colors

    def heat_map(self, index: int) -> Image.Image:
        """The probability of a class."""
        return pictures.heat_map(self.probabilities[..., index])

    def at(self, x: int, y: int) -> dict[str, float]:
        """Each class's probability at a point of the reduced picture; the nearest one for a point outside."""
        height, width, _ = self.probabilities.shape
        pixel = self.probabilities[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
        return dict(zip(self.class_names, pixel.tolist(), strict=True))

    def save_mask(self) -> str:
        """Writes the mask as `deeplab.predict` does; returns the file's path."""
        return self._save(pictures.color_mask(self.mask), "mask")

    def save_overlay(self, shown: Collection[int], opacity: float) -> str:
        """Writes the picture with the `shown` classes over it, and a legend; returns the file's path."""
        overlay = pictures.overlay(self.image, self.mask, self.class_names, shown, opacity)
        entries = {index: text for index, text in self.texts.items() if index in shown}
        legend = pictures.legend(entries, overlay.width, class_colors(self.class_names))
        return self._save(pictures.stack(overlay, legend), "overlay")

    def _save(self, picture: Image.Image, what: str) -> str:
        path = self.folder / f"{self.name}_{what}.png"
        pictures.save(picture, path)
        return str(path)
