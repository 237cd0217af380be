"""Endless batches of augmented crops, for training.

Batches are {"image": uint8 [batch, size, size, 3], "label": uint8 [batch, size, size]}, each for one replica.
`Augmentation.finish` does the device's part of the augmentation in the compiled step.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.repeats import NO_REPEATS, Repeats
from deeplab.data.input.stored import CORES, ONE_REPLICA, PARALLEL_CALLS, PREFETCHED_BATCHES, ordered
from deeplab.data.shards import records
from deeplab.data.shards.split import Split

INTERLEAVED_SHARDS = 16

BATCH_CALLS = 2 if CORES > 8 else None
"""Batches that are put together at the same time: copying into one takes a single thread, which limits many cores."""

PREFETCHED_RECORDS = 512
"""Encoded examples held for the start of an epoch, about 50 MB of VOC's."""

SHUFFLE_BUFFER = 2048
"""Encoded examples held for shuffling: about 0.2 GB for VOC's JPEGs of about 100 kB."""


class Crop(NamedTuple):
    """An example as the network sees it: image (uint8 RGB [size, size, 3]) and mask (uint8 [size, size])."""

    name: str
    image: np.ndarray
    mask: np.ndarray


def training_batches(
    split: Split,
    augment: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    global_batch_size: int,
    seed: int,
    first_example: int = 0,
    context: tf.distribute.InputContext = ONE_REPLICA,
    repeats: Repeats = NO_REPEATS,
) -> tf.data.Dataset:
    """Endless batches of the results of `augment`, which takes an image, its label and a seed.

    Each epoch takes every example once, or as often as `repeats` says, in an order of its own; batches may span epochs.
    Order and augmentation depend only on `seed`, the epoch and the example's place in it, so a run that starts at
    `first_example` (counted from the start of training) sees exactly the same batches as an uninterrupted run. Skipped
    examples are read, not decoded.

    The worker in `context` decodes only its part of each global batch, and gets it in batches for one replica each.
    """

    def decode(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        features = records.parse_example(record)
        image, label = records.decode_example(features)
        return augment(image, label, tf.stack([tf.constant(seed, tf.int64), index]))

    dataset = (
        _training_records(split, seed, first_example, repeats)
        .filter(lambda index, record: _is_of_worker(index - first_example, global_batch_size, context))
        .map(decode, num_parallel_calls=PARALLEL_CALLS)
        .batch(
            context.get_per_replica_batch_size(global_batch_size), drop_remainder=True, num_parallel_calls=BATCH_CALLS
        )
        # Known to be endless: otherwise workers would ask each other for each batch whether there is one.
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        .prefetch(PREFETCHED_BATCHES)
    )
    return dataset.with_options(ordered())


def training_names(
    split: Split, seed: int, first_example: int, num_examples: int, repeats: Repeats = NO_REPEATS
) -> list[str]:
    """Names of the examples of `training_batches`, starting at `first_example`."""
    dataset = _training_records(split, seed, first_example, repeats).take(num_examples)
    return [records.parse_example(record)["id"].numpy().decode() for _, record in dataset.with_options(ordered())]


def first_crops(
    split: Split, augmentation: Augmentation, number: int, seed: int, repeats: Repeats = NO_REPEATS
) -> list[Crop]:
    """The first crops of a run with this seed, with shifted colors, as the network sees them."""
    names = training_names(split, seed, 0, number, repeats)
    batch = augmentation.finish(next(iter(training_batches(split, augmentation, number, seed, repeats=repeats))))
    images = np.round(batch["image"].numpy()).astype(np.uint8)
    return [Crop(*example) for example in zip(names, images, batch["label"].numpy(), strict=True)]


def _training_records(split: Split, seed: int, first_example: int, repeats: Repeats) -> tf.data.Dataset:
    """Endless (index, record), starting at `first_example`; the index counts from the start of training."""
    shard_paths = split.shard_paths
    num_examples = split.num_examples + repeats.num_extra

    def repeated(record: tf.Tensor) -> tf.data.Dataset:
        is_repeated = tf.reduce_any(tf.equal(records.parse_example(record)["id"], repeats.names))
        return tf.data.Dataset.from_tensors(record).repeat(
            tf.where(is_repeated, tf.constant(repeats.times, tf.int64), 1)
        )

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = seed + epoch
        epoch_records = (
            tf.data.Dataset.from_tensor_slices(shard_paths)
            .shuffle(len(shard_paths), epoch_seed, reshuffle_each_iteration=False)
            .interleave(tf.data.TFRecordDataset, INTERLEAVED_SHARDS, num_parallel_calls=INTERLEAVED_SHARDS)
        )
        if repeats.names:
            epoch_records = epoch_records.flat_map(repeated)
        shuffled = epoch_records.shuffle(min(num_examples, SHUFFLE_BUFFER), epoch_seed, reshuffle_each_iteration=False)
        return shuffled.enumerate(epoch * num_examples)

    first_epoch, skipped = divmod(first_example, num_examples)
    ordered = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(skipped)
    return ordered.prefetch(PREFETCHED_RECORDS)  # meanwhile the next epoch fills its buffer


def _is_of_worker(index: tf.Tensor, global_batch_size: int, context: tf.distribute.InputContext) -> tf.Tensor:
    """Whether this example of the stream of global batches belongs to the worker, which has a slice of each batch."""
    return index % global_batch_size // (global_batch_size // context.num_input_pipelines) == context.input_pipeline_id
