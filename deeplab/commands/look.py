"""One HTML page about a data set: images with their masks, possible problems, and the crops for training.

python -m deeplab.look --voc_dir=mydata
python -m deeplab.look --tfrecord_dir=mydata_shards

For a folder in VOC's layout, checks all images and masks as train.py does; the page shows what training will read.
"""

from deeplab.program.start import start_program

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.training_batches import first_crops
from deeplab.data.shards.split import Split, SplitSettings, name_damaged_shard, read_splits
from deeplab.data.shards.write import ShardSettings, write_shards
from deeplab.data.source.download import DownloadSettings
from deeplab.errors import UsageError
from deeplab.files import temporary_folder, write_text
from deeplab.progress import Progress
from deeplab.settings import Classes, Options, setting
from deeplab.view import dataset_page
from deeplab.view.survey import Survey

logger = logging.getLogger("deeplab")


@dataclass(frozen=True)
class LookSettings:
    """The page."""

    page: Path | None = setting(
        None, "HTML file to write. Default: look.html in --tfrecord_dir if given, else in --voc_dir."
    )
    crops: int = setting(8, "Training crops to show.", lower=1, upper=1000)
    num_examples: int = setting(4, "Random images to show, beside those shown for a reason.", lower=0, upper=1000)
    seed: int = setting(
        1, "Seed of the crops: the first crops of a train.py run with the same seed.", lower=1, upper=2**31 - 1
    )


SETTINGS: Classes = (LookSettings, ShardSettings, SplitSettings, Augmentation)


def main(argv: list[str]) -> None:
    """--voc_dir or --tfrecord_dir -> a page."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: only flags are taken")
    tf.config.set_visible_devices([], "GPU")
    options = Options(SETTINGS)
    look = options[LookSettings]
    augmentation = options[Augmentation]
    shards = options[ShardSettings]
    source = options[SplitSettings]
    if not shards.voc_dir and not source.tfrecord_dir:
        raise UsageError("give --voc_dir, or --tfrecord_dir for shards that exist")

    # What there is, and what the network would see of it.
    path = look.page or (source.tfrecord_dir or shards.voc_dir or Path()) / "look.html"
    with _shards(shards, source) as located:
        train, val = read_splits(located, shards.train_split, shards.val_split, shards.class_names)
        splits = [train, val] if val is not None else [train]
        with name_damaged_shard(splits):
            survey = make_survey(splits, look.seed, look.num_examples)
            crops = first_crops(train, augmentation, look.crops, look.seed)

    # The page; what is odd stands in the log, too.
    facts = {
        "data": shards.voc_dir or source.tfrecord_dir,
        "crops": f"{augmentation.augmentation} at --crop_size={augmentation.crop_size}",
    }
    write_text(path, dataset_page.render(f"Data set: {facts['data']}", survey, crops, facts))
    for text in survey.odd():
        logger.warning("%s", text)
    logger.info("%s: open it in a browser", path)


@contextlib.contextmanager
def _shards(shards: ShardSettings, source: SplitSettings) -> Iterator[SplitSettings]:
    """Settings of existing shards: in --tfrecord_dir, else temporary shards written from --voc_dir."""
    if source.tfrecord_dir is not None:
        write_shards(shards, DownloadSettings(), source.tfrecord_dir)
        yield source
        return
    with temporary_folder("deeplab-look-") as folder:
        write_shards(shards, DownloadSettings(), folder)
        yield SplitSettings(tfrecord_dir=folder, verify=False)


def make_survey(splits: list[Split], seed: int, num_random: int) -> Survey:
    """Surveys all examples of the splits; the first split is the training split."""
    survey = Survey(splits[0].colored_names, seed, num_random)
    total = sum(split.num_examples for split in splits)
    progress = Progress("looking", total, "images")
    done = 0
    for split in splits:
        batches = EvaluationBatches(split).for_worker().take(split.num_examples)
        for batch in batches.as_numpy_iterator():
            survey.add(split.name, batch["name"][0].decode(), batch["image"][0], batch["label"][0])
            done += 1
            progress.update(done)
    progress.close()
    return survey


def command() -> None:
    """The program as `deeplab-look` starts it."""
    start_program(main, SETTINGS, __doc__)
