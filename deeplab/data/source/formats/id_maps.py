"""Images whose pixels are numbers of segments: COCO panoptic's and Segments.ai's."""

from pathlib import Path

import numpy as np

from deeplab.data.source.images import check_pixels, opened, read_bytes
from deeplab.errors import DataError

_SHOWN = 3


def draw_segments(path: Path, labels: dict[int, int], height: int, width: int) -> np.ndarray:
    """Class indices, uint8 [height, width], of an image of segments.

    Args:
        path: a PNG; a segment's number is R + 256 G + 65536 B, or its gray value.
        labels: class index by number.
        height: of the image.
        width: of the image.

    Raises:
        DataError: unreadable, of another size, or a number that `labels` lacks.
    """
    numbers = _numbers(path)
    if numbers.shape != (height, width):
        raise DataError(f"{path}: {numbers.shape[1]}x{numbers.shape[0]} pixels, its image is {width}x{height}")
    used, places = np.unique(numbers, return_inverse=True)
    if missing := [number for number in used.tolist() if number not in labels]:
        shown = ", ".join(map(str, missing[:_SHOWN]))
        raise DataError(f"{path}: pixels of {len(missing)} segments that the annotation lacks ({shown})")
    return np.array([labels[number] for number in used.tolist()], np.uint8)[places].reshape(height, width)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height). Raises DataError."""
    with opened(str(path), path, ("PNG",)) as image:
        return image.size


def _numbers(path: Path) -> np.ndarray:
    """Uint32 [height, width]."""
    with opened(str(path), read_bytes(path), ("PNG",)) as image:
        check_pixels(str(path), image.size)
        if image.mode in ("RGB", "RGBA"):
            red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.uint32), -1, 0)
            return red + 256 * green + 65536 * blue
        if image.mode in ("L", "I", "I;16"):
            return np.asarray(image).astype(np.uint32)
        raise DataError(f"{path}: a PNG of mode {image.mode}; numbers of segments are in RGB, or grey")
