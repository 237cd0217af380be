"""Makes a run of a DeepLab that others have trained: for predict, eval.py, export, and to train on from."""

import logging
from dataclasses import replace
from pathlib import Path

from deeplab.commands.settings import ImportSettings
from deeplab.data.source import voc
from deeplab.data.source.classes import read_classes
from deeplab.errors import UsageError
from deeplab.files import atomic_folder
from deeplab.labels import ColoredNames
from deeplab.model.deeplabv3 import build_deeplabv3, without_auxiliary_head
from deeplab.model.published.files import read_tensors
from deeplab.model.published.recognition import Recognized, recognize
from deeplab.model.published.transfer import transfer
from deeplab.run import run_folder
from deeplab.run.checkpoints import save_imported
from deeplab.run.settings import LoadSettings
from deeplab.settings import Options, as_flags, require

logger = logging.getLogger("deeplab")


def main(options: Options, arguments: list[str]) -> None:
    """A file of weights -> the folder of a run."""
    wanted = options[ImportSettings]
    model_dir = require("model_dir", wanted.model_dir)
    if model_dir.exists():
        raise UsageError(f"--model_dir={model_dir}: exists already; choose another folder")

    # What the file holds.
    source = Path(arguments[0])
    tensors = read_tensors(source)
    found = recognize(tensors, options[LoadSettings].output_stride, str(source))
    classes = _class_names(found, wanted.class_names)
    config = replace(found.config, class_names=tuple(classes), class_colors=classes.colors)
    logger.info("%s: %s on %s, %d classes", source, found.title, config.backbone, config.num_classes)

    # The same network here, with its weights.
    training_model = build_deeplabv3(config, auxiliary_head=found.has_auxiliary_head)
    transfer(training_model, tensors, found.names, str(source))

    # A run as train.py leaves it, at step 0.
    with atomic_folder(model_dir) as folder:
        run_folder.record_run(folder, config, as_flags(config))
        run_folder.record_import(folder, source, found.title)
        model = without_auxiliary_head(training_model)
        save_imported(folder / run_folder.CHECKPOINTS, model, training_model)
    logger.info("wrote %s: python -m deeplab.predict --model_dir=%s --output_dir=... IMAGE", model_dir, model_dir)
    logger.info(
        "to train on: python train.py --flagfile=%s/flags.txt --init_checkpoint=%s --model_dir=... %s",
        *(model_dir, model_dir, "--auxiliary_weight=0.4 ..." if found.has_auxiliary_head else "..."),
    )


def _class_names(found: Recognized, path: Path | None) -> ColoredNames:
    """The classes in the file; without one VOC's, in whose order published weights of 21 classes are; or numbers."""
    number = found.config.num_classes
    if path is None:
        is_of_voc = found.published_classes and number == len(voc.CLASS_NAMES)
        if is_of_voc:
            logger.info("21 classes: taken for VOC's; --class_names names others")
        return ColoredNames(voc.CLASS_NAMES if is_of_voc else found.config.class_names)
    table = read_classes(path)
    if len(table.names) != number:
        raise UsageError(f"--class_names={path}: {len(table.names)} classes, the network has {number}")
    return ColoredNames(table.names, table.shown)
