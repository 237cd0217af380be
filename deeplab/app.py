"""A page to try a model: drop a picture, see its mask.

python -m deeplab.app --model_dir=runs/voc
python -m deeplab.app --model_dir=exported --tfrecord_dir=shards

--model_dir is the folder of a run or of an export. With --tfrecord_dir, the page offers pictures of a split. Needs
Gradio: pip install '.[app]'. Pictures stay on this machine, and are deleted when the program ends.
"""

from deeplab.program.run import run

import dataclasses
import functools
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.api import DESCRIPTION, Model, load
from deeplab.data import records
from deeplab.data.images import ImageFile
from deeplab.data.split import Split, SplitSettings, damage_named
from deeplab.errors import DataError, Interrupted, UsageError
from deeplab.model.backbone import OUTPUT_STRIDES
from deeplab.model.inference import Inference
from deeplab.run.folder import LoadSettings, read_config
from deeplab.settings import Classes, Options, require, setting
from deeplab.view.trial import Trial

logger = logging.getLogger("deeplab")

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The paper's (table 6)."""

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class AppSettings:
    """The page."""

    model_dir: Path = setting(None, "Folder of the run or export whose model is tried.")
    checkpoint: str | None = setting(None, "Checkpoint of a run to use. Default: the best of --model_dir.")
    host: str = setting(
        "127.0.0.1", "Address to serve on. 0.0.0.0: also for other machines, without a password or encryption."
    )
    port: int = setting(7860, "Port to serve on.", lower=1, upper=65535)
    split: str = setting("val", f"Split of --tfrecord_dir; its first {NUM_EXAMPLES} images are examples on the page.")
    max_pixels: int = setting(16_000_000, "Refuse larger pictures, which need more memory.", lower=1)


SETTINGS: Classes = (AppSettings, SplitSettings, LoadSettings, Inference)


def main(argv: list[str]) -> None:
    """Serves the page until a signal ends the program."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: only flags are taken; drop pictures on the page")
    options = Options(SETTINGS)
    wanted, source = options[AppSettings], options[SplitSettings]
    require(wanted, "model_dir")
    with tempfile.TemporaryDirectory(prefix="deeplab-app-") as folder:
        app_page = _import_page(folder)
        models = Models(wanted, options[LoadSettings].output_stride, options[Inference])
        segment = functools.partial(segment_file, models, Path(folder), wanted.max_pixels)
        examples = write_examples(source, wanted.split, Path(folder) / "examples") if source.tfrecord_dir else []
        page = app_page.build(segment, models.class_names, _choices(app_page, models), examples)
        app_page.serve(page, wanted.host, wanted.port)
        logger.info("http://%s:%d: open it in a browser; Ctrl-C ends the program", wanted.host, wanted.port)
        try:
            threading.Event().wait()
        except Interrupted:
            logger.info("stopped")


def _import_page(folder: str) -> ModuleType:
    """The module of the page, which imports Gradio; Gradio reads these variables when it is imported."""
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    try:
        from deeplab.view import app_page  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install '.[app]'") from error
    return app_page


class Models:
    """The model of a run at the settings asked for, or of an export, whose settings are fixed.

    Attributes:
        output_stride, inference: those of the command line; the stride is None for an export.
        class_names: by index.
    """

    def __init__(self, wanted: AppSettings, output_stride: int | None, inference: Inference) -> None:
        """Loads the model at the settings of the command line; raises as `api.load`."""
        self._wanted, self.inference = wanted, inference
        self.output_stride = output_stride
        self.get = functools.lru_cache(maxsize=4)(self._load)
        self.class_names = self.get(output_stride, inference).class_names
        if output_stride is None and not self.is_export:
            self.output_stride = read_config(wanted.model_dir).output_stride

    @property
    def is_export(self) -> bool:
        """Whether the model is an export."""
        return (self._wanted.model_dir / DESCRIPTION).exists()

    def _load(self, output_stride: int | None, inference: Inference) -> Model:
        return load(self._wanted.model_dir, self._wanted.checkpoint, output_stride, inference)

    def chosen(self, output_stride: int, scales: Sequence[float], flip: bool) -> Model:
        """The model of a run at the settings chosen on the page; UsageError without a scale."""
        if not scales:
            raise UsageError("choose at least one scale")
        views = dataclasses.replace(self.inference, scales=tuple(sorted(map(float, scales))), flip=flip)
        return self.get(int(output_stride), views)


def _choices(app_page: ModuleType, models: Models) -> object:
    """The settings on the page; None for an export."""
    if models.is_export:
        return None
    chosen = models.inference.scales
    scales = sorted({*SCALES, *chosen})
    return app_page.Choices(OUTPUT_STRIDES, models.output_stride, scales, chosen, models.inference.flip)


def segment_file(models: Models, folder: Path, max_pixels: int, path: str, *settings: object) -> Trial:
    """Segments the picture in a file, with the values of `Choices` for the model of a run.

    Raises:
        DataError: not a picture, or more than `max_pixels`; the message names the file without its folder.
        UsageError: no scale chosen.
    """
    file = Path(path)
    model = models.chosen(*settings) if settings else models.get(models.output_stride, models.inference)  # type: ignore[arg-type]
    try:
        picture = ImageFile(file)
        width, height = picture.size
        if width * height > max_pixels:
            raise DataError(f"{file}: {width}x{height} pixels, more than --max_pixels={max_pixels:,}")
        image = picture.pixels(turned=True)
    except DataError as error:
        raise DataError(str(error).replace(str(file), file.name)) from error
    mask, probabilities = model.classes_and_probabilities(image)
    own = Path(tempfile.mkdtemp(prefix="trial-", dir=folder))
    return Trial.of(own, file.stem, image, mask, probabilities, models.class_names)


def write_examples(source: SplitSettings, name: str, folder: Path) -> list[str]:
    """Writes the first images of a split to files NAME.png; returns their paths.

    Raises:
        DataError: as `Split.read` and `Split.verify`, or a damaged record.
    """
    split = Split.read(source.tfrecord_dir, name)
    if source.verify:
        split.verify()
    folder.mkdir()
    paths = []
    with damage_named([split]):
        for record in tf.data.TFRecordDataset(split.shard_paths).take(NUM_EXAMPLES):
            features = records.parse_example(record)
            image: np.ndarray = records.decode_image(features["image/jpeg"]).numpy()
            path = folder / f"{features['id'].numpy().decode().replace('/', '_')}.png"
            Image.fromarray(image).save(path)
            paths.append(str(path))
    return paths


def command() -> None:
    """The program as `deeplab-app` starts it."""
    run(main, SETTINGS, __doc__)


if __name__ == "__main__":
    command()
