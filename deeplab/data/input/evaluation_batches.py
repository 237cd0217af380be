"""Whole images at their own size, each once, for scoring."""

import math
import sys
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab.data.input.stored import (
    ONE_REPLICA,
    PARALLEL_CALLS,
    PREFETCHED_BATCHES,
    example_sizes,
    ordered,
    stored_records,
)
from deeplab.data.shards import records
from deeplab.data.shards.split import Split
from deeplab.labels import VOID_LABEL

_FILLER_SIZE = 33  # pixels: more than the output stride
_SIDE_LIMIT = 2**31
_PIXELS_AHEAD = 2**25
"""Of images that are decoded before their turn; larger ones wait for it, so that few of them are in memory."""


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

    def num_steps(self, context: tf.distribute.InputContext = ONE_REPLICA) -> int:
        """Number of batches that each replica of all workers takes until every example has been seen."""
        num_workers = context.num_input_pipelines
        if self.max_images == 1:
            batches = math.ceil(self.split.num_examples / num_workers)
        else:
            sizes = example_sizes(self.split)
            batches = max(self._num_batches(sizes[worker::num_workers]) for worker in range(num_workers))
        return math.ceil(batches / _replicas_of_a_worker(context))

    def _num_batches(self, sizes: np.ndarray) -> int:
        """Number of batches of a worker whose examples have these sizes (int64 [examples, 2])."""
        counted = zip(*np.unique(sizes, axis=0, return_counts=True), strict=True)
        return sum(math.ceil(count / self._batch_size(int(height * width))) for (height, width), count in counted)

    def for_worker(self, context: tf.distribute.InputContext = ONE_REPLICA) -> tf.data.Dataset:
        """The batches of one worker's replicas, in a fixed order, repeated endlessly."""
        stored = stored_records(self.split).shard(context.num_input_pipelines, context.input_pipeline_id)
        ahead = _PIXELS_AHEAD // (self.split.max_height * self.split.max_width)
        calls = min(PARALLEL_CALLS, ahead) or None
        if self.max_images == 1:
            batches = stored.map(_decode_alone, num_parallel_calls=calls)
        else:
            grouped = stored.group_by_window(
                self._size_key,
                lambda key, window: window.batch(self.max_images),
                window_size_func=lambda key: self._batch_size(key // _SIDE_LIMIT * (key % _SIDE_LIMIT)),
            )
            batches = grouped.map(_decode_batch, num_parallel_calls=calls)
        fillers = tf.data.Dataset.from_tensors(_filler()).repeat()
        num_batches = self.num_steps(context) * _replicas_of_a_worker(context)
        batches = batches.concatenate(fillers).take(num_batches).repeat()
        return batches.prefetch(min(PREFETCHED_BATCHES, ahead)).with_options(ordered())

    def _batch_size(self, num_pixels: int | tf.Tensor) -> int | tf.Tensor:
        """Number of images of `num_pixels` pixels that share a batch."""
        if isinstance(num_pixels, tf.Tensor):
            return tf.clip_by_value(self.max_pixels // num_pixels, 1, self.max_images)  # int64, as group_by_window asks
        return min(max(self.max_pixels // num_pixels, 1), self.max_images)

    def _size_key(self, record: tf.Tensor) -> tf.Tensor:
        features = records.parse_example(record)
        return features["height"] * _SIDE_LIMIT + features["width"]


def _replicas_of_a_worker(context: tf.distribute.InputContext) -> int:
    return context.num_replicas_in_sync // context.num_input_pipelines


def _decode(record: tf.Tensor) -> dict[str, tf.Tensor]:
    features = records.parse_example(record)
    image, label = records.decode_example(features)
    return {"name": features["id"], "image": image, "label": label[..., 0], "is_example": tf.constant(1, tf.int64)}


@tf.autograph.experimental.do_not_convert  # it would take longer than tracing, for nothing
def _decode_alone(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """A record -> a batch of its example, without a copy of it."""
    return {name: value[tf.newaxis] for name, value in _decode(record).items()}


@tf.autograph.experimental.do_not_convert
def _decode_batch(batch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Records of one image size (string [batch]) -> the batch."""
    return tf.map_fn(
        _decode,
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
        "label": tf.fill([1, _FILLER_SIZE, _FILLER_SIZE], tf.constant(VOID_LABEL, tf.uint8)),
        "is_example": tf.constant([0], tf.int64),
    }
