"""Surveys a data set, image by image: sizes, pixels per class, possible problems, and examples worth looking at."""

import hashlib
import heapq
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from deeplab.labels import VOID_LABEL, foreground, has_background

SMALL_AREA = 256
"""Pixels: one cell of the network's output at stride 16. The network hardly sees a class with fewer pixels."""

FEW_IMAGES = 5
"""A class in fewer training images than this can hardly be learned."""

SHIFT_RATIO = 2.0
"""A class whose share of the pixels differs by less between the splits is not worth a line."""

SHIFT_DEVIATIONS = 4.0
"""How many standard errors of the mean share of an image the splits must be apart: chance alone rarely gives four."""

# of pictures in the page, in pixels
_LARGEST_SIDE = 480
_SMALLEST_SIDE = 160
_NUM_SHOWN = {"largest": 2, "smallest": 2, "most void": 2}
SHOWN_NAMES = 5


@dataclass(frozen=True)
class Shown:
    """An example to show, shrunk for the page: image (uint8 RGB), mask (uint8), real size and reasons to show it."""

    split: str
    name: str
    image: np.ndarray
    mask: np.ndarray
    size: tuple[int, int]  # width, height
    class_pixels: np.ndarray
    reasons: tuple[str, ...]


@dataclass
class SplitSurvey:
    """One split: image sizes (width, height); per class index ([256]), the number of pixels and of images, and sums.

    The sums are over the images, of a class's share of the labeled pixels and of this share's square.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(256))
    squared_shares: np.ndarray = field(default_factory=lambda: np.zeros(256))

    def labeled_share(self, index: int) -> float:
        """A class's share of all labeled pixels."""
        return float(self.pixels[index] / max(self.pixels[:VOID_LABEL].sum(), 1))

    def squared_error(self, index: int) -> float:
        """The square of the standard error of a class's mean share of an image."""
        count = len(self.sizes)
        mean = self.shares[index] / count
        return float(max(self.squared_shares[index] / count - mean**2, 0.0) / max(count - 1, 1))


class Survey:
    """Takes every example once; keeps statistics, and the pixels of the examples to show, `num_random` by chance."""

    def __init__(self, class_names: Sequence[str], seed: int = 0, num_random: int = 4) -> None:
        self.class_names = class_names
        self.small: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self._num_shown = {**_NUM_SHOWN, "random": num_random}
        self.splits: dict[str, SplitSurvey] = {}
        self._random = random.Random(seed)
        self._kept: dict[str, list[tuple[float, int, Shown]]] = defaultdict(list)
        self._names_by_image: dict[bytes, list[tuple[str, str, bytes]]] = defaultdict(list)
        self._mostly_void: list[str] = []
        self._only_background: list[str] = []

    def add(self, split: str, name: str, image: np.ndarray, mask: np.ndarray) -> None:
        """Takes one example: uint8 RGB [height, width, 3] and class indices, uint8 [height, width]."""
        pixels = np.bincount(mask.ravel(), minlength=256)
        survey = self.splits.setdefault(split, SplitSurvey())
        survey.sizes.append((mask.shape[1], mask.shape[0]))
        survey.pixels += pixels
        survey.images_with += pixels > 0
        shares = pixels / max(pixels[:VOID_LABEL].sum(), 1)
        survey.shares += shares
        survey.squared_shares += shares**2
        self._names_by_image[_digest(image)].append((split, name, _digest(mask)))
        where = f"{split}/{name}"
        for index in np.flatnonzero((pixels > 0) & (pixels < SMALL_AREA)):
            if index in foreground(self.class_names):
                self.small[int(index)].append((split, name))
        if 2 * pixels[VOID_LABEL] > mask.size:
            self._mostly_void.append(where)
        elif pixels[0] + pixels[VOID_LABEL] == mask.size and has_background(self.class_names):
            self._only_background.append(where)
        self._keep(split, name, image, mask, pixels)

    def _keep(self, split: str, name: str, image: np.ndarray, mask: np.ndarray, pixels: np.ndarray) -> None:
        """Keeps the example for every reason to show it for which it is among the best."""
        scores = {
            "largest": float(mask.size),
            "smallest": -float(mask.size),
            "random": self._random.random(),
            "most void": float(pixels[VOID_LABEL] / mask.size),
        }
        scores |= {f"most {self.class_names[index]}": float(pixels[index]) for index in foreground(self.class_names)}
        scores |= {
            f"little {self.class_names[index]}": -float(pixels[index])
            for index in foreground(self.class_names)
            if 0 < pixels[index] < SMALL_AREA
        }
        order = sum(len(survey.sizes) for survey in self.splits.values())
        shown = None
        for reason, score in scores.items():
            kept = self._kept[reason]
            number = self._num_shown.get(reason, 1)
            if not score or not number or (len(kept) == number and score <= kept[0][0]):
                continue
            shown = shown or _shrunk(split, name, image, mask, pixels)
            (heapq.heappush if len(kept) < number else heapq.heapreplace)(kept, (score, -order, shown))

    def examples(self) -> list[Shown]:
        """The examples to show: the largest, the smallest, some at random, most void, and some for each class.

        Images of one size are neither large nor small.
        """
        areas = {width * height for survey in self.splits.values() for width, height in survey.sizes}
        chosen: dict[tuple[str, str], Shown] = {}
        reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
        for reason, kept in self._kept.items():
            if reason in ("largest", "smallest") and len(areas) == 1:
                continue
            for _, _, shown in sorted(kept, key=lambda item: item[:2], reverse=True):
                key = shown.split, shown.name
                index = self.class_names.index(reason[5:]) if reason[5:] in self.class_names else None
                # A class that is already visible needs no further image.
                if index is None or not any(other.class_pixels[index] >= SMALL_AREA for other in chosen.values()):
                    chosen.setdefault(key, shown)
                if key in chosen:
                    reasons[key].append(reason)
        return [
            Shown(shown.split, shown.name, shown.image, shown.mask, shown.size, shown.class_pixels, tuple(reasons[key]))
            for key, shown in chosen.items()
        ]

    def odd(self) -> list[str]:
        """Possible problems, as sentences."""
        return [*self._odd_classes(), *self._shifts(), *self._odd_images(), *self._repeated_images()]

    def _odd_classes(self) -> Iterable[str]:
        for split, survey in self.splits.items():
            absent = [name for name, number in zip(self.class_names, survey.images_with, strict=False) if not number]
            if absent:
                yield f"{split} has no pixel of {', '.join(absent)}."
        first, survey = next(iter(self.splits.items()))
        counts = zip(self.class_names, survey.images_with.tolist(), strict=False)
        few = [f"{name} ({number})" for name, number in counts if 0 < number < FEW_IMAGES <= len(survey.sizes)]
        if few:
            yield f"Classes in fewer than {FEW_IMAGES} images of {first}: {', '.join(few)}."
        if self.small:
            counts_of_small = [
                f"{self.class_names[index]} ({len(where):,})" for index, where in sorted(self.small.items())
            ]
            yield (
                f"Images with fewer than {SMALL_AREA} pixels of a class, one cell of the network's output: "
                f"{', '.join(counts_of_small)}."
            )

    def _shifts(self) -> Iterable[str]:
        """Classes that are much more of one split than of the other, by more than chance."""
        if len(self.splits) != 2 or min(len(survey.sizes) for survey in self.splits.values()) < FEW_IMAGES:
            return
        (first, one), (second, other) = self.splits.items()
        for index, name in enumerate(self.class_names):
            low, high = sorted((one.labeled_share(index), other.labeled_share(index)))
            means = [survey.shares[index] / len(survey.sizes) for survey in (one, other)]
            error = math.sqrt(one.squared_error(index) + other.squared_error(index))
            if 0 < SHIFT_RATIO * low <= high and abs(means[0] - means[1]) > SHIFT_DEVIATIONS * error:
                yield (
                    f"{name}: {one.labeled_share(index):.2%} of the labelled pixels in {first}, "
                    f"{other.labeled_share(index):.2%} in {second}.".replace("%", " %")
                )

    def _odd_images(self) -> Iterable[str]:
        if self._mostly_void:
            yield f"More than half void: {_count(len(self._mostly_void), 'image')}: {_listed(self._mostly_void)}."
        if self._only_background:
            number = _count(len(self._only_background), "image")
            yield f"Only background: {number}: {_listed(self._only_background)}."

    def _repeated_images(self) -> Iterable[str]:
        """Images with equal pixels; first the ones in several splits."""
        across: list[str] = []
        within: list[str] = []
        unlike: list[str] = []
        for group in self._names_by_image.values():
            if len(group) > 1:
                text = " = ".join(f"{split}/{name}" for split, name, _ in group)
                (across if len({split for split, *_ in group}) > 1 else within).append(text)
                if len({mask for *_, mask in group}) > 1:
                    unlike.append(text)
        if across:
            number = _count(len(across), "image")
            yield f"{number} in more than one split, which makes scores too good: {_listed(across)}."
        if within:
            yield f"{_count(len(within), 'image')} more than once in a split: {_listed(within)}."
        if unlike:
            yield f"{_count(len(unlike), 'image')} with different masks: {_listed(unlike)}."


def fit(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask at a size for the page: shrinks large ones, enlarges tiny ones by a whole factor."""
    height, width = mask.shape
    longest = max(height, width)
    scale = min(_LARGEST_SIDE / longest, 1) if longest >= _SMALLEST_SIDE else -(-_SMALLEST_SIDE // longest)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    method = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST
    resized = Image.fromarray(image).resize(size, method)
    return np.asarray(resized), np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _shrunk(split: str, name: str, image: np.ndarray, mask: np.ndarray, pixels: np.ndarray) -> Shown:
    return Shown(split, name, *fit(image, mask), (mask.shape[1], mask.shape[0]), pixels, ())


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(repr(array.shape).encode() + array.tobytes(), digest_size=16).digest()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")


def most_common_sizes(sizes: list[tuple[int, int]], number: int) -> list[tuple[tuple[int, int], int]]:
    """The most common sizes (width, height) with how often they occur."""
    return Counter(sizes).most_common(number)
