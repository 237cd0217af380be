"""Batches: order, epochs, restarts, whole images."""

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_mask
from PIL import Image
from tensorflow.python.distribute.input_lib import _enable_get_next_as_optional

from deeplab.data.input import evaluation_batches
from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.stored import sample_images
from deeplab.data.input.training_batches import training_batches, training_names
from deeplab.data.shards import records
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.split import Split
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc

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
    dataset = training_batches(split, augment, BATCH, seed, first_example)
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
    augment = Augmentation(AugmentationSettings(32))
    whole = _batches(shards, 7, augment=augment)
    rest = _batches(shards, 7 - first_batch, first_example=first_batch * BATCH, augment=augment)
    for expected, batch in zip(whole[first_batch:], rest, strict=True):
        for name in ("image", "label", "shifts"):
            np.testing.assert_array_equal(batch[name], expected[name])


def test_names_of_the_examples_of_any_batch(shards):
    """Batches 2 to 4, across the end of an epoch; the examples are identified by their pixels."""
    split = Split.read(shards, "train")
    names = {}
    for batch in _evaluated(split):
        names[_identity_of(batch["image"][0, :64, :64])] = batch["name"][0].decode()
    seen = [names[identity] for identity in _order(_batches(shards, 5))]
    assert training_names(split, 5, 2 * BATCH, 3 * BATCH) == seen[2 * BATCH :]


def test_augmentation_differs_by_epoch_and_seed(shards):
    split = Split.read(shards, "train")
    one_image = tf.constant(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))

    def augment_same_image(image, label, seed):
        return Augmentation(AugmentationSettings(32))(one_image, tf.zeros([64, 64, 1], tf.uint8), seed)

    for seed in (5, 6):
        dataset = training_batches(split, augment_same_image, 10, seed)
        seen = {_identity_of(image) for batch in dataset.take(3) for image in batch["image"].numpy()}
        assert len(seen) >= 29  # 30 draws, each with a seed of its own


def _evaluated(split, max_images=1, num_workers=1, worker=0, replicas=1):
    """The batches of one evaluation for a worker's replicas."""
    batches = EvaluationBatches(split, max_images, max_pixels=40_000)
    context = tf.distribute.InputContext(num_workers, worker, num_workers * replicas)
    return list(batches.for_worker(context).take(batches.num_steps(context) * replicas).as_numpy_iterator())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A split of ten images of four sizes, one of them large, with names that show their size."""
    folder = tmp_path_factory.mktemp("mixed")
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / "voc" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = [(50, 40), (60, 40), (50, 40), (300, 200), (50, 40), (60, 40), (50, 40), (50, 40), (7, 3), (50, 40)]
    names = [f"{index}_{width}x{height}" for index, (width, height) in enumerate(sizes)]
    for name, (width, height) in zip(names, sizes, strict=True):
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "voc" / "JPEGImages" / f"{name}.jpg")
        write_mask(folder / "voc" / "SegmentationClass" / f"{name}.png", rng.integers(0, 3, (height, width)))
    (folder / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    return prepare(ShardSettings(voc_dir=folder / "voc", num_shards=3), folder, "val", voc.CLASS_NAMES), folder / "voc"


@pytest.mark.parametrize("max_images", [1, 2, 4])
@pytest.mark.parametrize(("num_workers", "replicas"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2)])
def test_evaluation_takes_each_image_once_at_its_own_size(mixed, max_images, num_workers, replicas):
    split, voc_dir = mixed
    per_worker = [_evaluated(split, max_images, num_workers, worker, replicas) for worker in range(num_workers)]
    assert len({len(batches) for batches in per_worker}) == 1  # all take the same number of steps
    assert len(per_worker[0]) % replicas == 0
    seen = []
    for batch in itertools.chain.from_iterable(per_worker):
        height, width = batch["label"].shape[1:]
        for name, image, label, is_example in zip(
            *map(batch.get, ("name", "image", "label", "is_example")), strict=True
        ):
            if not is_example:
                assert (name, set(label.ravel())) == (b"", {255})
                continue
            seen.append(name.decode())
            assert name.decode().endswith(f"_{width}x{height}")
            with Image.open(voc_dir / "SegmentationClass" / f"{seen[-1]}.png") as mask:
                np.testing.assert_array_equal(label, np.array(mask))
            assert image.shape == (height, width, 3)
        assert len(batch["name"]) <= max_images
        assert len(batch["name"]) == 1 or len(batch["name"]) * height * width <= 40_000
    assert sorted(seen) == voc.read_split(voc_dir, "val")


def test_images_of_one_size_share_a_batch_up_to_a_number_of_pixels(mixed):
    """Six of 50x40, in batches of 4; two of 60x40; one of 300x200, more than a batch's pixels, alone; one of 7x3."""
    split, _ = mixed
    sizes = sorted((len(b["name"]), b["label"].shape[2]) for b in _evaluated(split, 4))
    assert sizes == [(1, 7), (1, 300), (2, 50), (2, 60), (4, 50)]


@pytest.mark.parametrize("max_images", [1, 2])
def test_large_images_wait_for_their_turn(mixed, monkeypatch, max_images):
    """Of ten images, only those of the first batch have been decoded when it comes."""
    split, _ = mixed
    decoded = []

    def decode(features, real=records.decode_example):
        name = tf.numpy_function(lambda name: decoded.append(name) or name, [features["id"]], tf.string)
        return real(features | {"image/jpeg": tf.strings.join([features["image/jpeg"], tf.strings.substr(name, 0, 0)])})

    monkeypatch.setattr(records, "decode_example", decode)
    monkeypatch.setattr(evaluation_batches, "_PIXELS_AHEAD", 300 * 200 - 1)
    batch = next(iter(EvaluationBatches(split, max_images).for_worker()))
    assert decoded == [*batch["name"].numpy()]


def test_sampled_images_are_spread_over_the_split(shards, shapes_dir):
    """Ten examples: every third and every fifth one, as stored; a JPEG's pixels are Pillow's."""
    split = Split.read(shards, "train")
    stored = list(dict(sample_images(split, 100)))
    assert len(set(stored)) == 10
    assert list(dict(sample_images(split, 3))) == stored[::3][:3]
    sampled = dict(sample_images(split, 2))
    assert list(sampled) == stored[::5]
    for name, image in sampled.items():
        np.testing.assert_array_equal(image, np.asarray(Image.open(shapes_dir / "JPEGImages" / f"{name}.jpg")))


def test_evaluation_notices_a_shard_with_fewer_records(shards):
    split = Split.read(shards, "val")
    more = replace(split, num_examples=7)
    with pytest.raises(tf.errors.FailedPreconditionError):
        _evaluated(more)


def test_workers_do_not_ask_each_other_whether_there_is_a_next_batch(shards):
    """By TensorFlow's own rule, which costs several workers a sum for each batch of a data set that may end."""
    several_workers = SimpleNamespace(
        extended=SimpleNamespace(_in_multi_worker_mode=lambda: True, enable_partial_batch_handling=True)
    )
    context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=1, num_replicas_in_sync=2)
    split = Split.read(shards, "train")
    for first_example in (0, 7):
        training = training_batches(split, _plain_crop, BATCH, 5, first_example, context)
        evaluation = EvaluationBatches(split, max_images=2).for_worker(context)
        for dataset in (training, evaluation):
            assert not _enable_get_next_as_optional(several_workers, dataset, dataset.cardinality())
        assert _enable_get_next_as_optional(several_workers, training.take(3), training.take(3).cardinality())
