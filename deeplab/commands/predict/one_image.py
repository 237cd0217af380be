"""From a file to its pictures: reads, segments, draws and writes one image; for several threads at a time."""

import contextlib
import logging
import queue
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from deeplab.commands.predict.names import STANDARD_INPUT, Named
from deeplab.data.source import headers
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.images import ImageFile, allow_pixels, check_pixels, is_georeferenced, size_in_header
from deeplab.data.source.masks import read_mask
from deeplab.errors import DataError
from deeplab.labels import foreground
from deeplab.threads import Budget
from deeplab.view import pictures
from deeplab.view.colors import class_colors

logger = logging.getLogger("deeplab")

PIXELS_AT_ONCE = 2**26
"""Of the images that are in memory together; a larger one is alone."""

SHARED = 2**22
"""Pixels: the windows of a larger image are shared among all idle devices."""

MASKS = "masks"
COLORED = "coloured"
OVERLAYS = "overlays"
ROWS = "side_by_side"
VOC_RESULTS = "results/VOC2012/Segmentation"
FOLDERS = (MASKS, COLORED, OVERLAYS, ROWS, VOC_RESULTS)
"""All that are written below the output folder."""


@dataclass(frozen=True)
class Wanted:
    """Which pictures, and where.

    Attributes:
        output_dir: the folder of their folders.
        folders: the folders below it; each picture is called NAME.png. One other than those named above gets masks.
        truth_dir: the folder of true masks for `ROWS`.
        max_pixels: larger images are refused.
    """

    output_dir: Path
    folders: tuple[str, ...]
    truth_dir: Path | None
    max_pixels: int

    def georeferenced(self, name: str) -> Path:
        """The TIFF of a georeferenced image's mask, beside its PNG."""
        return self.output_dir / self.folders[0] / f"{name}.tif"

    def exist(self, name: str, path: Path) -> bool:
        """Whether an image's pictures are there already, none of them older than its file."""
        written = [self.output_dir / folder / f"{name}.png" for folder in self.folders]
        try:
            # Only headers of TIFFs are read: there may be a hundred thousand photos.
            if path.suffix.lower() in (".tif", ".tiff") and is_georeferenced(path):
                written.append(self.georeferenced(name))
            return min(picture.stat().st_mtime_ns for picture in written) >= path.stat().st_mtime_ns
        except (DataError, OSError):  # what is wrong with the image is said when it is read
            return False


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        path: its file.
        shares: its classes and their shares, in words; empty if it could not be segmented.
        other_bands: as in `ImageFile`.
        unread: why it could not be segmented.
        untrue: why no true mask is shown beside it.
    """

    path: Path
    shares: str = ""
    other_bands: int = 0
    unread: DataError | None = None
    untrue: DataError | None = None


class Segments(Protocol):
    """What is needed of a `Model`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By index."""

    @property
    def window_size(self) -> int:
        """In pixels; 0 for none."""

    def segment(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [height, width, 3] -> class indices, uint8 [height, width]."""

    def segment_band(self, image: np.ndarray, index: int, number: int) -> np.ndarray:
        """One of `number` bands of it, where it is larger than a window."""


class OneImage:
    """Makes the pictures of an image. Reading and drawing run in any number of threads, each model in one at a time."""

    def __init__(self, models: Sequence[Segments], wanted: Wanted) -> None:
        """The models are copies of one, on different devices."""
        self._class_names = models[0].class_names
        self._wanted = wanted
        allow_pixels(wanted.max_pixels)
        self._memory = Budget(PIXELS_AT_ONCE)
        self._idle: queue.SimpleQueue[Segments] = queue.SimpleQueue()
        for model in models:
            self._idle.put(model)

    def __call__(self, named: Named) -> Outcome:
        """Reads the image and writes its pictures; what is wrong with its files is in the outcome."""
        name, path = named
        limit = self._wanted.max_pixels
        try:
            # Nothing but its header is read before there is room; of standard input, even that cannot be known.
            width, height = (limit, 1) if path == STANDARD_INPUT else size_in_header(path)
            check_pixels(str(path), (width, height), limit, "--max_pixels=")
            with self._memory.hold(width * height):
                file = ImageFile(sys.stdin.buffer if path == STANDARD_INPUT else path, limit, "--max_pixels")
                check_pixels(file.name, file.size, limit, "--max_pixels=")
                image = file.pixels(turned=True)
                mask = self._segment(path, image)
                if file.georeference:
                    self._save_georeferenced(name, mask, file.georeference)
                if file.is_place_lost:
                    logger.warning("%s: EXIF turns this georeferenced TIFF: its mask is not written as one", path)
                return self._made(name, path, image, mask, file.other_bands)
        except DataError as error:
            return Outcome(path, unread=error)

    def _segment(self, path: Path, image: np.ndarray) -> np.ndarray:
        models = [self._idle.get()]
        if image[..., 0].size > SHARED and max(image.shape[:2]) > models[0].window_size > 0:
            with contextlib.suppress(queue.Empty):
                while True:
                    models.append(self._idle.get_nowait())
        try:
            return _segment_together(models, image)
        except DataError as error:  # an export of a fixed size
            raise DataError(f"{path}: {error}") from error
        finally:
            for model in models:
                self._idle.put(model)

    def _save_georeferenced(self, name: str, mask: np.ndarray, tags: headers.Tags) -> None:
        """Writes the mask as a TIFF beside its PNG, with the tags of its image that say where on Earth it is."""
        pictures.save_tiff(pictures.color_mask(mask), self._wanted.georeferenced(name), tags)

    def _made(self, name: str, path: Path, image: np.ndarray, mask: np.ndarray, other_bands: int) -> Outcome:
        """Writes the pictures of a segmented image."""
        truth = None
        untrue = None
        if ROWS in self._wanted.folders and self._wanted.truth_dir:
            try:
                path_of_truth = self._wanted.truth_dir / f"{name}.png"
                truth = read_truth(path_of_truth, mask.shape, self._class_names, self._wanted.max_pixels)
            except DataError as error:
                untrue = error
        shares = {index: f"{self._class_names[index]} {share:.1%}" for index, share in pictures.class_shares(mask)}
        for folder in self._wanted.folders:
            if folder != ROWS or truth is not None:
                picture = draw(folder, image, mask, truth, shares, self._class_names)
                path_of_picture = self._wanted.output_dir / folder / f"{name}.png"
                pictures.save(picture, path_of_picture, has_photo=folder in (OVERLAYS, ROWS))
        return Outcome(path, ", ".join(shares.values()), other_bands, untrue=untrue)


def _segment_together(models: Sequence[Segments], image: np.ndarray) -> np.ndarray:
    """The classes of an image, of which each model computes a band."""
    if len(models) == 1:
        return models[0].segment(image)
    with ThreadPoolExecutor(len(models)) as pool:
        bands = [pool.submit(model.segment_band, image, index, len(models)) for index, model in enumerate(models)]
        return np.concatenate([band.result() for band in bands])


def draw(
    folder: str,
    image: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None,
    shares: dict[int, str],
    class_names: Sequence[str],
) -> Image.Image:
    """The picture of an image for this folder; `ROWS` needs its true mask."""
    if folder == COLORED:
        return pictures.colored(mask)
    if folder == OVERLAYS:
        overlay = pictures.overlay(image, mask, class_names)
        entries = {index: text for index, text in shares.items() if index in foreground(class_names)}
        return pictures.stack(overlay, pictures.legend(entries, overlay.width, class_colors(class_names)))
    if folder == ROWS:
        assert truth is not None
        return pictures.panel(image, truth, mask, class_names, max(mask.shape))
    return pictures.color_mask(mask)


def read_truth(path: Path, shape: tuple[int, ...], class_names: tuple[str, ...], max_pixels: int) -> np.ndarray:
    """A mask of the prediction's shape (height, width); DataError for another shape, and as `masks.read_mask`."""
    truth = read_mask(path, ClassTable.of_names(class_names), max_pixels).labels
    if truth.shape != shape:
        raise DataError(f"{path}: {truth.shape[1]}x{truth.shape[0]} pixels, its image is {shape[1]}x{shape[0]}")
    return truth
