"""A page to try a model: drop a picture, see its mask."""

import contextlib
import dataclasses
import functools
import importlib
import logging
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from deeplab.api import DESCRIPTION, Model, load
from deeplab.commands.app.ending import end_and_delete
from deeplab.commands.app.guard import Guard, Hosts
from deeplab.commands.app.trial import Trial
from deeplab.commands.settings import NUM_EXAMPLES, AppSettings
from deeplab.data.input.stored import sample_images
from deeplab.data.shards.settings import SplitSettings
from deeplab.data.shards.split import Split
from deeplab.data.source.images import ImageFile, allow_pixels, check_pixels, size_in_header
from deeplab.errors import DataError, Interrupted, UsageError
from deeplab.model.settings import OUTPUT_STRIDES, Inference
from deeplab.run.checkpoints import best_path
from deeplab.run.run_folder import CHECKPOINTS, read_config
from deeplab.run.settings import LoadSettings
from deeplab.settings import Options, require

logger = logging.getLogger("deeplab")

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The paper's (table 6)."""


def main(options: Options, arguments: list[str]) -> None:
    """Serves the page until a signal ends the program."""
    settings = options[AppSettings]
    source = options[SplitSettings]
    inference = options[Inference]
    model_dir = require("model_dir", settings.model_dir)
    allow_pixels(settings.max_pixels)

    # Pictures that people drop lie in a folder that goes when the program ends.
    with tempfile.TemporaryDirectory(prefix="deeplab-app-") as name:
        folder = Path(name)
        page = _import_page(folder)

        # The model: a run's, whose stride and views can be chosen on the page, or an export, which is as it is.
        is_export = (model_dir / DESCRIPTION).exists()
        output_stride = options[LoadSettings].output_stride
        if not is_export:
            output_stride = output_stride or read_config(model_dir).output_stride
        segmenter = Segmenter(model_dir, settings, output_stride, inference, folder)
        class_names = segmenter.model(output_stride, inference).class_names
        choices = None if is_export else page.Choices(OUTPUT_STRIDES, output_stride, SCALES, inference)

        # The page, with pictures to begin with.
        examples = write_examples(source, settings.split, folder / "examples")
        heading = describe(model_dir, settings.checkpoint, class_names, is_export)
        built = page.build(heading, segmenter, class_names, choices, examples)
        hosts = Hosts(settings.host, settings.host_name or socket.gethostname())
        guard = functools.partial(Guard, hosts=hosts, max_upload=settings.max_upload)
        page.serve(built, settings.host, settings.port, guard, settings.max_upload)
        try:
            logger.info("http://%s:%d: open it in a browser; Ctrl-C ends the program", settings.host, settings.port)
            threading.Event().wait()
        except Interrupted:
            logger.info("stopped")
            end_and_delete(folder)


def describe(model_dir: Path, checkpoint: str | None, class_names: Sequence[str], is_export: bool) -> list[str]:
    """The heading of the page, and the lines below it: which model it is, its classes and its checkpoint."""
    classes = f"{len(class_names)} classes: {', '.join(class_names)}"
    if is_export:
        return [f"{model_dir}: an export", classes]
    config = read_config(model_dir)
    version = "v3+" if config.decoder else "v3"
    path = Path(checkpoint or best_path(model_dir / CHECKPOINTS))
    return [f"DeepLab {version}, {config.backbone}", classes, f"Checkpoint {path}"]


def _import_page(folder: Path) -> ModuleType:
    """The module of the page, which imports Gradio; Gradio reads these variables when it is imported.

    From here on, `folder` also gets the temporary files of TensorFlow and of all else.
    """
    tempfile.tempdir = str(folder)
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    try:
        return importlib.import_module("deeplab.commands.app.page")
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install '.[app]' (or docs/app.md)") from error


@dataclass(frozen=True)
class Segmenter:
    """Segments files with the model of a run or an export.

    Attributes:
        model_dir: folder of the run or the export.
        settings: the checkpoint, and the largest picture.
        output_stride, inference: used unless others are chosen; the stride of an export is None.
        folder: for the results.
        rates: by output stride and views, the fewest seconds per pixel that a picture has taken so far. Small
            pictures take more, and so does the first one, for which TensorFlow traces the network.
    """

    model_dir: Path
    settings: AppSettings
    output_stride: int | None
    inference: Inference
    folder: Path
    rates: dict[tuple[int | None, Inference], float] = field(default_factory=dict)

    def model(self, output_stride: int | None, inference: Inference) -> Model:
        """The model at these settings; kept when it was loaded before. Raises as `api.load`."""
        return _load(self.model_dir, self.settings.checkpoint, output_stride, inference)

    def __call__(self, path: str, *chosen: Any) -> Trial:  # noqa: ANN401  the values of the parts of `Choices`
        """Segments a picture; `chosen`: output stride, scales and flip, or nothing for an export.

        Raises:
            DataError: not a picture, or more than `max_pixels`; the message names the file without its folder.
            UsageError: no scale chosen.
        """
        how = self._how(*chosen)
        image = read_picture(Path(path), self.settings.max_pixels)
        model = self.model(*how)
        start = time.monotonic()
        mask, probabilities = model.classes_and_probabilities(image)
        self.rates[how] = min((time.monotonic() - start) / mask.size, self.rates.get(how, math.inf))
        own = Path(tempfile.mkdtemp(prefix="trial-", dir=self.folder))
        return Trial.of(own, Path(path).stem, image, mask, probabilities, model.class_names)

    def expected(self, path: str, *chosen: Any) -> tuple[int, float | None]:  # noqa: ANN401
        """A picture's number of pixels, and the seconds that it will take (None before the first); raises the same."""
        num_pixels = pixels_of(Path(path), self.settings.max_pixels)
        rate = self.rates.get(self._how(*chosen))
        return num_pixels, None if rate is None else rate * num_pixels

    def _how(self, *chosen: Any) -> tuple[int | None, Inference]:  # noqa: ANN401
        """Output stride and views: those chosen, or the segmenter's own."""
        if not chosen:
            return self.output_stride, self.inference
        output_stride, scales, flip = chosen
        if not scales:
            raise UsageError("choose at least one scale")
        return output_stride, dataclasses.replace(self.inference, scales=tuple(sorted(scales)), flip=flip)


_load = functools.lru_cache(maxsize=4)(load)


def read_picture(path: Path, max_pixels: int) -> np.ndarray:
    """uint8 RGB [height, width, 3], upright; DataError as for `Segmenter`.

    The file is read whole only if its header tells of a size within `max_pixels`.
    """
    pixels_of(path, max_pixels)
    with _named_without_folder(path):
        return ImageFile(path, max_pixels, "--max_pixels").pixels(turned=True)


def pixels_of(path: Path, max_pixels: int) -> int:
    """The number of pixels that a picture's header tells; DataError as for `Segmenter`."""
    with _named_without_folder(path):
        width, height = size_in_header(path)
        check_pixels(str(path), (width, height), max_pixels, "--max_pixels=")
    return width * height


@contextlib.contextmanager
def _named_without_folder(path: Path) -> Iterator[None]:
    """Turns a DataError about a file into one that tells strangers no folder."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(path), path.name)) from error


def write_examples(source: SplitSettings, name: str, folder: Path) -> list[str]:
    """Writes images of a split to files NAME.png; returns their paths. None without --tfrecord_dir.

    Raises:
        DataError: as `Split.read` and `Split.verify`, or a damaged record.
    """
    if source.tfrecord_dir is None:
        return []
    split = Split.read(source.tfrecord_dir, name)
    if source.verify:
        split.verify()
    folder.mkdir()
    paths = []
    for example, image in sample_images(split, NUM_EXAMPLES):
        path = folder / f"{example.replace('/', '_')}.png"
        Image.fromarray(image).save(path)
        paths.append(str(path))
    return paths
