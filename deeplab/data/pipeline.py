"""The two tf.data chains: endless augmented crops for training, and whole images for scoring.

Both give batches {"image": uint8 [batch, height, width, 3], "label": uint8 [batch, height, width]}, each for one
replica. `Augmentation.finish` does the device's part of the augmentation in the compiled step.
"""

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab.data import records
from deeplab.data.augmentation import Augmentation
from deeplab.data.palette import IGNORE_LABEL
from deeplab.data.split import Split, damage_named

INTERLEAVED_SHARDS = 16
PREFETCHED_BATCHES = 4
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PARALLEL_CALLS = CORES + 1
"""One per core, and one waiting."""

BATCH_CALLS = 2 if CORES > 8 else None
"""Batches that are put together at the same time: copying into one takes a single thread, which limits many cores."""

PREFETCHED_RECORDS = 512
"""Encoded examples held for the start of an epoch, about 50 MB of VOC's."""

ALONE = tf.distribute.InputContext()
"""One worker with one replica, which takes the whole batch."""

_FILLER_SIZE = 33  # pixels: more than the output stride
_SIDE_LIMIT = 2**31

SHUFFLE_BUFFER = 2048
"""Encoded examples held for shuffling: about 0.2 GB for VOC's JPEGs of about 100 kB."""


class Crop(NamedTuple):
    """An example as the network sees it: image (uint8 RGB [size, size, 3]) and mask (uint8 [size, size])."""

    name: str
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Repeats:
    """Names of examples that appear `times` times in each epoch; all others appear once."""

    names: tuple[str, ...] = ()
    times: int = 1

    @property
    def num_more(self) -> int:
        """The number of examples that an epoch has more than the split."""
        return len(self.names) * (self.times - 1)


NO_REPEATS = Repeats()


def training_batches(
    split: Split,
    augment: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    global_batch_size: int,
    seed: int,
    first_example: int = 0,
    context: tf.distribute.InputContext = ALONE,
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
        .filter(lambda index, record: _is_mine(index - first_example, global_batch_size, context))
        .map(decode, num_parallel_calls=PARALLEL_CALLS)
        .batch(
            context.get_per_replica_batch_size(global_batch_size), drop_remainder=True, num_parallel_calls=BATCH_CALLS
        )
        # Known to be endless: otherwise workers would ask each other for each batch whether there is one.
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        .prefetch(PREFETCHED_BATCHES)
    )
    return dataset.with_options(_options())


def training_names(
    split: Split, seed: int, first_example: int, num_examples: int, repeats: Repeats = NO_REPEATS
) -> list[str]:
    """Names of the examples of `training_batches`, starting at `first_example`."""
    dataset = _training_records(split, seed, first_example, repeats).take(num_examples)
    return [records.parse_example(record)["id"].numpy().decode() for _, record in dataset.with_options(_options())]


def first_crops(
    split: Split, augmentation: Augmentation, number: int, seed: int, repeats: Repeats = NO_REPEATS
) -> list[Crop]:
    """The first crops of a run with this seed, with shifted colours, as the network sees them."""
    names = training_names(split, seed, 0, number, repeats)
    batch = augmentation.finish(next(iter(training_batches(split, augmentation, number, seed, repeats=repeats))))
    images = np.round(batch["image"].numpy()).astype(np.uint8)
    return [Crop(*example) for example in zip(names, images, batch["label"].numpy(), strict=True)]


def _training_records(split: Split, seed: int, first_example: int, repeats: Repeats) -> tf.data.Dataset:
    """Endless (index, record), starting at `first_example`; the index counts from the start of training."""
    shard_paths, num_examples = split.shard_paths, split.num_examples + repeats.num_more

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


@dataclass(frozen=True)
class EvaluationBatches:
    """Every example of a split, once, at its own size, without padding. `for_worker` makes the data set.

    Images of equal size share a replica's batch, up to `max_images` and `max_pixels` in total, but at least one image.
    Replicas and workers may see different sizes at the same time. Each worker takes every n-th example; a worker
    without further batches gets fillers, so that all workers take the same number of steps.

    Batches: "name" (string [batch]), "image" (uint8 [batch, height, width, 3]), "label" (uint8 [batch, height, width])
    and "is_example" (int64 [batch]): 0 for fillers, which are entirely void, else 1.
    """

    split: Split
    max_images: int = 1
    max_pixels: int = sys.maxsize

    def num_steps(self, context: tf.distribute.InputContext = ALONE) -> int:
        """Number of batches that each replica of all workers takes until every example has been seen."""
        num_workers = context.num_input_pipelines
        if self.max_images == 1:
            batches = math.ceil(self.split.num_examples / num_workers)
        else:
            sizes = _example_sizes(self.split)
            batches = max(self._num_batches(sizes[worker::num_workers]) for worker in range(num_workers))
        return math.ceil(batches / _replicas_of_a_worker(context))

    def _num_batches(self, sizes: np.ndarray) -> int:
        """Number of batches of a worker whose examples have these sizes (int64 [examples, 2])."""
        counted = zip(*np.unique(sizes, axis=0, return_counts=True), strict=True)
        return sum(math.ceil(count / self._batch_size(int(height * width))) for (height, width), count in counted)

    def for_worker(self, context: tf.distribute.InputContext = ALONE) -> tf.data.Dataset:
        """The batches of one worker's replicas, in a fixed order, repeated endlessly."""
        stored = _evaluation_records(self.split).shard(context.num_input_pipelines, context.input_pipeline_id)
        if self.max_images == 1:
            stored = stored.batch(1)
        else:
            stored = stored.group_by_window(
                self._size_key,
                lambda key, window: window.batch(self.max_images),
                window_size_func=lambda key: self._batch_size(key // _SIDE_LIMIT * (key % _SIDE_LIMIT)),
            )
        batches = stored.map(_decode_batch, num_parallel_calls=PARALLEL_CALLS)
        fillers = tf.data.Dataset.from_tensors(_filler()).repeat()
        num_batches = self.num_steps(context) * _replicas_of_a_worker(context)
        return (
            batches.concatenate(fillers)
            .take(num_batches)
            .repeat()
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_options())
        )

    def _batch_size(self, num_pixels: int | tf.Tensor) -> int | tf.Tensor:
        """Number of images of `num_pixels` pixels that share a batch."""
        if isinstance(num_pixels, tf.Tensor):
            return tf.clip_by_value(self.max_pixels // num_pixels, 1, self.max_images)  # int64, as group_by_window asks
        return min(max(self.max_pixels // num_pixels, 1), self.max_images)

    def _size_key(self, record: tf.Tensor) -> tf.Tensor:
        features = records.parse_example(record)
        return features["height"] * _SIDE_LIMIT + features["width"]


@functools.lru_cache(maxsize=4)
def _example_sizes(split: Split) -> np.ndarray:
    """(height, width) of every example, int64 [examples, 2], in stored order. Decodes nothing."""

    def size(record: tf.Tensor) -> tf.Tensor:
        features = records.parse_example(record)
        return tf.stack([features["height"], features["width"]])

    sizes = _evaluation_records(split).map(size, num_parallel_calls=PARALLEL_CALLS).with_options(_options())
    return np.array([*sizes.as_numpy_iterator()])


@functools.lru_cache(maxsize=1)
def pixels_by_example(split: Split) -> tuple[list[str], np.ndarray]:
    """Names of a split's examples and their pixels of each class, int64 [examples, classes], without void.

    Decodes all masks.
    """

    def count(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = records.parse_example(record)
        label = tf.io.decode_png(features["label/png"], channels=1)
        return features["id"], tf.math.bincount(tf.cast(label, tf.int32), minlength=IGNORE_LABEL + 1, dtype=tf.int64)

    counted = _evaluation_records(split).map(count, num_parallel_calls=PARALLEL_CALLS).with_options(_options())
    names, counts = zip(*counted.as_numpy_iterator(), strict=True)
    return [name.decode() for name in names], np.stack(counts)[:, : split.num_classes]


def sample_images(split: Split, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """At most `count` images, spread evenly over the split: each with its name, uint8 RGB [height, width, 3].

    Raises:
        DataError: a damaged record.
    """
    sampled = _evaluation_records(split).shard(max(split.num_examples // count, 1), 0).take(count)
    with damage_named([split]):
        for record in sampled:
            features = records.parse_example(record)
            yield features["id"].numpy().decode(), records.decode_image(features["image/jpeg"]).numpy()


def _evaluation_records(split: Split) -> tf.data.Dataset:
    stored = tf.data.TFRecordDataset(split.shard_paths)
    return stored.apply(tf.data.experimental.assert_cardinality(split.num_examples))


def _replicas_of_a_worker(context: tf.distribute.InputContext) -> int:
    return context.num_replicas_in_sync // context.num_input_pipelines


def _decode_batch(batch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Records of one image size (string [batch]) -> the batch."""

    def decode(record: tf.Tensor) -> dict[str, tf.Tensor]:
        features = records.parse_example(record)
        image, label = records.decode_example(features)
        return {
            "name": features["id"],
            "image": image,
            "label": label[..., 0],
            "is_example": tf.constant(1, tf.int64),
        }

    return tf.map_fn(
        decode,
        batch,
        fn_output_signature={
            "name": tf.TensorSpec([], tf.string),
            "image": tf.TensorSpec([None, None, 3], tf.uint8),
            "label": tf.TensorSpec([None, None], tf.uint8),
            "is_example": tf.TensorSpec([], tf.int64),
        },
    )


def _filler() -> dict[str, tf.Tensor]:
    """A batch of one small image that is entirely void."""
    return {
        "name": tf.constant([""]),
        "image": tf.zeros([1, _FILLER_SIZE, _FILLER_SIZE, 3], tf.uint8),
        "label": tf.fill([1, _FILLER_SIZE, _FILLER_SIZE], tf.constant(IGNORE_LABEL, tf.uint8)),
        "is_example": tf.constant([0], tf.int64),
    }


def _is_mine(index: tf.Tensor, global_batch_size: int, context: tf.distribute.InputContext) -> tf.Tensor:
    """Whether this example of the stream of global batches belongs to the worker, which has a slice of each batch."""
    return index % global_batch_size // (global_batch_size // context.num_input_pipelines) == context.input_pipeline_id


def _options() -> tf.data.Options:
    """The order is fixed: workers agree on which worker takes which record, and a restart continues where it stopped.

    tf.data's autotuning is off: the number of parallel calls is known, and ending the tuning thread can take long
    (docs/design.md, data). Its threads are its own, so that a step's kernels do not wait for decoding.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = CORES
    return options
