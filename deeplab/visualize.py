"""Pictures of masks: palette colouring, overlays, and image | prediction | truth side by side."""

from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.voc import palette
from deeplab.files import written_whole

_GAP = 4  # pixels of white between pictures that stand side by side


def colour_mask(mask: np.ndarray) -> Image.Image:
    """uint8 class indices [height, width] -> a palettised image: VOC colours to see, indices to read back."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    return image


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """The mask's colours over a uint8 RGB image [height, width, 3]; background (index 0) stays clear."""
    colours = palette()[mask]
    mixed = np.where((mask != 0)[..., None], opacity * colours + (1 - opacity) * image, image)
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Pictures of any size and mode in a row, top-aligned, on white."""
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture.convert("RGB"), (left, 0))
        left += picture.width + _GAP
    return row


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    with written_whole(path) as temporary:
        picture.save(temporary, "PNG")
