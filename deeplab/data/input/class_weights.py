"""Weights of the classes in the cross-entropy: from their frequency, or as given."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab.data.input.stored import pixels_by_example
from deeplab.data.shards.split import Split
from deeplab.errors import UsageError, shortened
from deeplab.text import read_lines


def class_weights(choice: str, split: Split) -> tuple[float, ...] | None:
    """The weights that `--class_weights` asks for; None for 1 each. Median frequency reads all masks of the split.

    Raises:
        UsageError: not one weight, 0 or more, for each class.
        DataError: a file that cannot be read.
    """
    if choice == "none":
        return None
    if choice == "inverse_frequency":
        return inverse_frequency_weights(split.class_pixels)
    if choice == "median_frequency":
        return median_frequency_weights(pixels_by_example(split)[1])
    return _given_weights(choice, split.class_names)


def inverse_frequency_weights(class_pixels: Sequence[int]) -> tuple[float, ...]:
    """Weights proportional to 1 / pixels of the class, with mean 1 over all pixels; 0 for a class without pixels.

    `class_pixels` counts the pixels of the whole training split, without void.
    """
    pixels = np.asarray(class_pixels, np.float64)
    present = pixels > 0
    weights = np.divide(pixels.sum(), pixels * present.sum(), out=np.zeros_like(pixels), where=present)
    return tuple(weights.tolist())


def median_frequency_weights(pixels: np.ndarray) -> tuple[float, ...]:
    """Median frequency / frequency (arXiv 1411.4734, section 6.3.2); 0 for a class without pixels.

    The frequency of a class is its share of the pixels of the images that hold it. `pixels`: int64 [examples, classes],
    without void.
    """
    own = pixels.sum(0, dtype=np.float64)
    seen = np.where(pixels > 0, pixels.sum(1, keepdims=True), 0).sum(0, dtype=np.float64)
    present = own > 0
    frequency = np.divide(own, seen, out=np.ones_like(own), where=present)
    return tuple(np.where(present, np.median(frequency[present]) / frequency, 0.0).tolist())


def _given_weights(text: str, class_names: Sequence[str]) -> tuple[float, ...]:
    is_list = re.fullmatch(r"[-+.,\deE\s]+", text)
    items = text.split(",") if is_list else _read_weights(text, class_names)
    try:
        weights = tuple(float(item) for item in items)
    except ValueError as error:
        raise UsageError(f"--class_weights={text}: numbers are needed; {error}") from error
    if len(weights) != len(class_names) or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise UsageError(
            f"--class_weights={text}: one number, 0 or more, is needed for each of {len(class_names)} classes "
            f"({', '.join(class_names)}); there are {len(weights)}"
        )
    return weights


def _read_weights(text: str, class_names: Sequence[str]) -> list[str]:
    """The last word of each line; words before it must be the name of the class at this place."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--class_weights={text}: none, inverse_frequency, median_frequency, numbers as in 1,2.5, or a file; "
            "there is no such file"
        )
    items: list[str] = []
    for line in filter(None, read_lines(path, "weights of the classes")):
        *words, item = line.split()
        name = " ".join(words)
        place = len(items)
        if name and (place >= len(class_names) or name != class_names[place]):
            expected = repr(class_names[place]) if place < len(class_names) else "no further class"
            raise UsageError(
                f"{path}: {shortened(repr(line))}: expected {expected} here; the order is that of the classes"
            )
        items.append(item)
    return items
