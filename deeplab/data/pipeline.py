"""The two tf.data chains, side by side: endless augmented crops to train on, whole images to score on.

Both give batches {"image": uint8 [batch, height, width, 3], "label": uint8 [batch, height, width]} of the *global*
batch size; tf.distribute splits them over the replicas. What of the augmentation is the device's, `Augmentation.finish`
does to them inside the compiled step.
"""

import os
from collections.abc import Callable

import tensorflow as tf

from deeplab.data import records, transforms
from deeplab.data.palette import IGNORE_LABEL
from deeplab.data.split import Split

INTERLEAVED_SHARDS = 16
PREFETCHED_BATCHES = 4
PARALLEL_CALLS = 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""One for each core, and one that waits its turn."""

ALONE = tf.distribute.InputContext()
"""One worker, and one replica for all of a batch."""

SHUFFLE_BUFFER = 2048
"""Encoded examples held for shuffling: about 0.2 GB for VOC, whose JPEGs are about 100 kB."""


def training_batches(
    split: Split,
    augment: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    global_batch_size: int,
    seed: int,
    first_example: int = 0,
    context: tf.distribute.InputContext = ALONE,
) -> tf.data.Dataset:
    """Endless batches of what `augment` makes of an image, its label and a seed.

    Each epoch takes every example once, in its own order, and batches run across epochs. Order and augmentation depend
    on `seed`, the epoch and the example's place in it alone, so that a run that starts at `first_example` (counted from
    the start of training) sees exactly what an uninterrupted one sees. What is skipped is read, not decoded.

    Of each global batch the worker that `context` names decodes its part, and gets it in batches for one replica each.
    """

    def decode(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        features = records.parse_example(record)
        image, label = records.decode_example(features)
        return augment(image, label, tf.stack([tf.constant(seed, tf.int64), index]))

    dataset = (
        _training_records(split, seed, first_example)
        .filter(lambda index, record: _is_mine(index - first_example, global_batch_size, context))
        .map(decode, num_parallel_calls=PARALLEL_CALLS)
        .batch(context.get_per_replica_batch_size(global_batch_size), drop_remainder=True)
        .prefetch(PREFETCHED_BATCHES)
    )
    return dataset.with_options(_options())


def training_names(split: Split, seed: int, first_example: int, num_examples: int) -> list[str]:
    """The names of the examples that `training_batches` takes from `first_example` on."""
    dataset = _training_records(split, seed, first_example).take(num_examples)
    return [records.parse_example(record)["id"].numpy().decode() for _, record in dataset.with_options(_options())]


def _training_records(split: Split, seed: int, first_example: int) -> tf.data.Dataset:
    """Endless (index, record) from `first_example` on; the index counts from the start of training."""
    shard_paths, num_examples = split.shard_paths, split.num_examples

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = seed + epoch
        epoch_records = (
            tf.data.Dataset.from_tensor_slices(shard_paths)
            .shuffle(len(shard_paths), epoch_seed, reshuffle_each_iteration=False)
            .interleave(tf.data.TFRecordDataset, INTERLEAVED_SHARDS, num_parallel_calls=INTERLEAVED_SHARDS)
            .shuffle(min(num_examples, SHUFFLE_BUFFER), epoch_seed, reshuffle_each_iteration=False)
        )
        return epoch_records.enumerate(epoch * num_examples)

    first_epoch, skipped = divmod(first_example, num_examples)
    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(skipped)


def evaluation_batches(
    split: Split, global_batch_size: int, context: tf.distribute.InputContext = ALONE
) -> tf.data.Dataset:
    """Every example once, in order, at its own resolution, padded bottom and right to the split's largest sides.

    Padding is void in the label, so it is never scored. The last batch is filled up with images of void alone, so
    that every batch divides among the replicas; a further key, "is_example" (int64 [batch]), is 0 for those, else 1.
    `context` as in `training_batches`.
    """
    height, width = split.max_height, split.max_width

    def decode(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        features = records.parse_example(record)
        image, label = transforms.pad(*records.decode_example(features), height, width)
        image = tf.ensure_shape(image, [height, width, 3])
        label = tf.ensure_shape(label, [height, width, 1])
        return {"image": image, "label": label[..., 0], "is_example": tf.constant(1, tf.int64)}

    def fill(index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "image": tf.zeros([height, width, 3], tf.uint8),
            "label": tf.fill([height, width], tf.constant(IGNORE_LABEL, tf.uint8)),
            "is_example": tf.constant(0, tf.int64),
        }

    num_examples = split.num_examples
    num_in_all = num_examples + -num_examples % global_batch_size
    stored = tf.data.TFRecordDataset(split.shard_paths)
    stored = stored.apply(tf.data.experimental.assert_cardinality(num_examples)).enumerate()
    fillers = tf.data.Dataset.range(num_examples, num_in_all)
    dataset = (
        stored.filter(lambda index, record: _is_mine(index, global_batch_size, context))
        .map(decode, num_parallel_calls=PARALLEL_CALLS)
        .concatenate(fillers.filter(lambda index: _is_mine(index, global_batch_size, context)).map(fill))
        .batch(context.get_per_replica_batch_size(global_batch_size), drop_remainder=True)
        .prefetch(PREFETCHED_BATCHES)
    )
    return dataset.with_options(_options())


def examples(split: Split) -> tf.data.Dataset:
    """(id, image, label) of every example in the order of `evaluation_batches`, at native size, nothing padded."""

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = records.parse_example(record)
        image, label = records.decode_example(features)
        return features["id"], image, label[..., 0]

    stored = tf.data.TFRecordDataset(split.shard_paths)
    dataset = stored.map(decode, num_parallel_calls=PARALLEL_CALLS).prefetch(PREFETCHED_BATCHES)
    return dataset.with_options(_options())


def _is_mine(index: tf.Tensor, global_batch_size: int, context: tf.distribute.InputContext) -> tf.Tensor:
    """Whether the example at this place in the stream of global batches is the worker's: it has a slice of each."""
    return index % global_batch_size // (global_batch_size // context.num_input_pipelines) == context.input_pipeline_id


def _options() -> tf.data.Options:
    """In a fixed order always: workers agree on who takes which record, and a restart goes on where the run was.

    Not tuned by tf.data, since the number of parallel calls is known, and to end the thread that tunes can take long
    (`make_evaluation`).
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return options
