"""Batches: order, epochs, restarts, whole images."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from deeplab.data import pipeline
from deeplab.data.augmentation import Augmentation
from deeplab.data.split import Split

BATCH = 4


def _identity_of(image):
    return image.tobytes()


def _plain_crop(image, label, seed):
    """A crop that tells images apart and does not depend on the seed."""
    return {
        "image": tf.ensure_shape(image[:64, :64], [64, 64, 3]),
        "label": tf.ensure_shape(label[:64, :64, 0], [64, 64]),
    }


def _batches(shards, count, first_example=0, augment=_plain_crop, seed=5):
    split = Split.read(shards, "train")
    dataset = pipeline.training_batches(split, augment, BATCH, seed, first_example)
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(count)]


def _order(batches):
    return [_identity_of(image) for batch in batches for image in batch["image"]]


def test_every_epoch_takes_each_example_once_in_another_order(shards):
    order = _order(_batches(shards, 10))  # 40 examples are 4 epochs of 10
    epochs = [order[start : start + 10] for start in range(0, 40, 10)]
    for epoch in epochs:
        assert set(Counter(epoch).values()) == {1}
        assert set(epoch) == set(epochs[0])
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("first_batch", [1, 2, 5])
def test_starting_later_sees_what_an_uninterrupted_run_sees(shards, first_batch):
    augment = Augmentation(32)
    whole = _batches(shards, 7, augment=augment)
    rest = _batches(shards, 7 - first_batch, first_example=first_batch * BATCH, augment=augment)
    for expected, batch in zip(whole[first_batch:], rest, strict=True):
        for name in ("image", "label", "shifts"):
            np.testing.assert_array_equal(batch[name], expected[name])


def test_names_of_the_examples_of_any_batch(shards):
    """Told apart by their pixels, those of batches 2 to 4, across the end of an epoch."""
    split = Split.read(shards, "train")
    names = {}
    for name, image, _ in pipeline.examples(split).as_numpy_iterator():
        names[_identity_of(image[:64, :64])] = name.decode()
    seen = [names[identity] for identity in _order(_batches(shards, 5))]
    assert pipeline.training_names(split, 5, 2 * BATCH, 3 * BATCH) == seen[2 * BATCH :]


def test_augmentation_differs_by_epoch_and_seed(shards):
    split = Split.read(shards, "train")
    one_image = tf.constant(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))

    def augment_same_image(image, label, seed):
        return Augmentation(32)(one_image, tf.zeros([64, 64, 1], tf.uint8), seed)

    for seed in (5, 6):
        dataset = pipeline.training_batches(split, augment_same_image, 10, seed)
        seen = {_identity_of(image) for batch in dataset.take(3) for image in batch["image"].numpy()}
        assert len(seen) >= 29  # 30 draws, each with a seed of its own


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_evaluation_counts_each_image_once_at_its_own_size(shards, batch_size):
    split = Split.read(shards, "val")
    batches = pipeline.evaluation_batches(split, batch_size)
    examples = list(pipeline.examples(split).as_numpy_iterator())
    assert len(list(batches)) == -(-5 // batch_size)
    images, labels, counted = [], [], []
    for batch in batches.as_numpy_iterator():
        assert batch["image"].shape == (batch_size, split.max_height, split.max_width, 3)
        images.extend(batch["image"])
        labels.extend(batch["label"])
        counted.extend(batch["is_example"])
    assert counted == [1] * 5 + [0] * (len(counted) - 5)
    for image, label, (_, native_image, native_label) in zip(images, labels, examples, strict=False):
        height, width = native_label.shape
        np.testing.assert_array_equal(image[:height, :width], native_image)
        np.testing.assert_array_equal(label[:height, :width], native_label)
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()
    assert all((label == 255).all() for label in labels[5:])


def test_evaluation_notices_a_shard_with_fewer_records(shards):
    split = Split.read(shards, "val")
    more = replace(split, num_examples=7)
    with pytest.raises(tf.errors.FailedPreconditionError):
        list(pipeline.evaluation_batches(more, 1))
