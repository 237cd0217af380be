"""Reads a split's records in stored order: their sizes, their class pixels, some of their images.

Also what both chains of batches share: how many calls run in parallel, and that the order is fixed.
"""

import functools
import itertools
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab.data.shards import records
from deeplab.data.shards.split import Split, name_damaged_shard
from deeplab.labels import VOID_LABEL

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PARALLEL_CALLS = CORES + 1
"""One per core, and one waiting."""

PREFETCHED_BATCHES = 4

ONE_REPLICA = tf.distribute.InputContext()
"""One worker with one replica, which takes the whole batch."""


def stored_records(split: Split) -> tf.data.Dataset:
    """The serialized records of a split, in stored order; their number is known."""
    stored = tf.data.TFRecordDataset(split.shard_paths)
    return stored.apply(tf.data.experimental.assert_cardinality(split.num_examples))


def names_in_list_order(split: Split) -> list[str]:
    """Names of the examples in the order of the split's list, from which shards take turns. Decodes nothing.

    Examples that were left out as bad may shift their neighbors by a place, and with tiles the images of different
    shards are mixed: the order is then fixed, but not the list's.
    """

    def name(record: tf.Tensor) -> tf.Tensor:
        return records.parse_example(record)["id"]

    by_shard = [
        [each.decode() for each in tf.data.TFRecordDataset(path).map(name).as_numpy_iterator()]
        for path in split.shard_paths
    ]
    return [each for turn in itertools.zip_longest(*by_shard) for each in turn if each is not None]


@functools.lru_cache(maxsize=4)
def example_sizes(split: Split) -> np.ndarray:
    """(height, width) of every example, int64 [examples, 2], in stored order. Decodes nothing."""

    def size(record: tf.Tensor) -> tf.Tensor:
        features = records.parse_example(record)
        return tf.stack([features["height"], features["width"]])

    sizes = stored_records(split).map(size, num_parallel_calls=PARALLEL_CALLS).with_options(ordered())
    return np.array([*sizes.as_numpy_iterator()])


@functools.lru_cache(maxsize=1)
def pixels_by_example(split: Split) -> tuple[list[str], np.ndarray]:
    """Names of a split's examples and their pixels of each class, int64 [examples, classes], without void.

    Decodes all masks.
    """

    def count(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = records.parse_example(record)
        label = tf.io.decode_png(features["label/png"], channels=1)
        return features["id"], tf.math.bincount(tf.cast(label, tf.int32), minlength=VOID_LABEL + 1, dtype=tf.int64)

    counted = stored_records(split).map(count, num_parallel_calls=PARALLEL_CALLS).with_options(ordered())
    names, counts = zip(*counted.as_numpy_iterator(), strict=True)
    return [name.decode() for name in names], np.stack(counts)[:, : split.num_classes]


def sample_images(split: Split, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """At most `count` images, spread evenly over the split: each with its name, uint8 RGB [height, width, 3].

    Raises:
        DataError: a damaged record.
    """
    sampled = stored_records(split).shard(max(split.num_examples // count, 1), 0).take(count)
    with name_damaged_shard([split]):
        for record in sampled:
            features = records.parse_example(record)
            yield features["id"].numpy().decode(), records.decode_image(features["image/jpeg"]).numpy()


def ordered() -> tf.data.Options:
    """The order is fixed: workers agree on which worker takes which record, and a restart continues where it stopped.

    tf.data's autotuning is off: the number of parallel calls is known, and ending the tuning thread can take long
    (docs/design.md, order and position). Its threads are its own, so that a step's kernels do not wait for decoding.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = CORES
    return options
