"""One HTML page about a data set: images with their masks, possible problems, and the crops for training."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from deeplab.commands.settings import LookSettings
from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import first_crops
from deeplab.data.shards.settings import ShardSettings, SplitSettings
from deeplab.data.shards.split import Split, name_damaged_shard, read_splits
from deeplab.data.shards.write import write_shards
from deeplab.data.source.download import DownloadSettings
from deeplab.files import temporary_folder, write_text
from deeplab.progress import Progress
from deeplab.settings import Options
from deeplab.view import dataset_page
from deeplab.view.survey import Survey

logger = logging.getLogger("deeplab")


def main(options: Options, arguments: list[str]) -> None:
    """--voc_dir or --tfrecord_dir -> a page."""
    tf.config.set_visible_devices([], "GPU")
    look = options[LookSettings]
    augmentation = Augmentation(options[AugmentationSettings])
    shards = options[ShardSettings]
    source = options[SplitSettings]

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
        "crops": f"{augmentation.settings.augmentation} at --crop_size={augmentation.settings.crop_size}",
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
