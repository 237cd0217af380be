"""Image and label move together; void stays void."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from deeplab.data import transforms
from deeplab.data.pipeline import Augmentation

SEEDS = [tf.constant([7, index], tf.int64) for index in range(24)]


@pytest.fixture
def marked():
    """An image whose red channel is its label, so that the two can be compared after any geometric transform."""
    label = np.kron(np.random.default_rng(0).choice([0, 60, 120, 255], (5, 7)), np.ones((8, 8))).astype(np.uint8)
    image = np.stack([label, 255 - label, np.full_like(label, 9)], -1)
    return tf.constant(image), tf.constant(label[..., None])


def test_pad_adds_mean_colour_and_void_at_bottom_and_right(marked):
    image, label = (tensor.numpy() for tensor in transforms.pad(*marked, 50, 61))
    assert image.shape == (50, 61, 3) and label.shape == (50, 61, 1)
    np.testing.assert_array_equal(image[:40, :56], marked[0])
    np.testing.assert_array_equal(label[:40, :56], marked[1])
    for outside in (np.s_[40:], np.s_[:, 56:]):
        assert (image[outside] == transforms.MEAN_COLOUR).all() and (label[outside] == 255).all()
    np.testing.assert_array_equal(transforms.pad(*marked, 3, 3)[0], marked[0])


def test_resize_is_half_pixel_bilinear_and_nearest(marked):
    image, label = (tensor.numpy() for tensor in transforms.resize(*marked, 20, 28))
    pixels = marked[0].numpy().astype(np.float64)
    # Half the size with half-pixel centres is the mean of 2x2 blocks.
    blocks = pixels.reshape(20, 2, 28, 2, 3).mean((1, 3))
    np.testing.assert_allclose(image, blocks, atol=0.5001)
    assert set(np.unique(label)) <= set(np.unique(marked[1]))
    np.testing.assert_array_equal(label[..., 0], marked[1].numpy()[1::2, 1::2, 0])


def test_crop_is_a_window_of_both(marked):
    offsets = set()
    full = np.concatenate([marked[0].numpy(), marked[1].numpy()], -1)
    for seed in SEEDS:
        image, label = transforms.random_crop(*marked, 33, seed)
        np.testing.assert_array_equal(image[..., 0], label[..., 0])
        both = np.concatenate([image, label], -1)
        found = [
            (t, left) for t in range(8) for left in range(24) if (full[t : t + 33, left : left + 33] == both).all()
        ]
        assert found
        offsets.add(found[0])
    assert len(offsets) > 12


def test_crop_reaches_both_ends():
    column = tf.constant([0, 1, 2, 3], tf.uint8, [4, 1, 1])
    image, label = tf.tile(column, [1, 4, 3]), tf.tile(column, [1, 4, 1])
    tops = {int(transforms.random_crop(image, label, 2, seed)[1][0, 0, 0]) for seed in SEEDS}
    assert tops == {0, 1, 2}


@pytest.mark.parametrize("crop_size", [16, 48])
def test_scale_crop_moves_label_with_image_and_pads_with_void(marked, crop_size):
    sizes = set()
    for seed in SEEDS:
        image, label = (t.numpy() for t in transforms.random_scale_crop(*marked, crop_size, 0.5, 2.0, seed))
        assert image.shape == (crop_size, crop_size, 3) and label.shape == (crop_size, crop_size, 1)
        assert set(np.unique(label)) <= {0, 60, 120, 255}
        # Away from edges between labels the red channel is the label; padding is mean colour over void.
        inner = np.zeros(label.shape[:2], bool)
        inner[1:-1, 1:-1] = np.logical_and.reduce(
            [np.roll(label[..., 0], shift, axis) == label[..., 0] for shift in (-1, 1) for axis in (0, 1)]
        )[1:-1, 1:-1]
        padded = (image == transforms.MEAN_COLOUR).all(-1)
        assert (label[padded] == 255).all()
        agree = image[..., 0][inner & ~padded] == label[..., 0][inner & ~padded]
        assert agree.mean() > 0.9
        sizes.add(int(padded.sum()))
    assert len(sizes) > 3 or crop_size == 16


def test_scale_one_is_a_plain_crop(marked):
    for seed in SEEDS[:4]:
        image, label = transforms.random_scale_crop(*marked, 32, 1.0, 1.0, seed)
        np.testing.assert_array_equal(image[..., 0], label[..., 0])


def test_resize_or_crop_does_each_for_about_half():
    # A ramp over the whole width: squashed it spans all of it, cropped from 444 it does not.
    ramp = tf.cast(tf.linspace(0.0, 255.0, 500), tf.uint8)
    image = tf.tile(ramp[None, :, None], [375, 1, 3])
    label = tf.zeros([375, 500, 1], tf.uint8)
    squashed = 0
    for seed in SEEDS:
        result, labels = transforms.random_resize_or_crop(image, label, 384, 444, seed)
        assert result.shape == (384, 384, 3) and labels.shape == (384, 384, 1)
        span = int(result[0, -1, 0]) - int(result[0, 0, 0])
        assert span > 250 or span == pytest.approx(255 * 384 / 444, abs=3)
        squashed += span > 250
    assert 6 <= squashed <= 18


def test_flip_mirrors_both_or_neither(marked):
    flipped = 0
    for seed in SEEDS:
        image, label = transforms.random_flip(*marked, seed)
        mirrored = bool((image.numpy() == marked[0].numpy()[:, ::-1]).all())
        expected = [tensor.numpy()[:, ::-1] if mirrored else tensor.numpy() for tensor in marked]
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])
        flipped += mirrored
    assert 6 <= flipped <= 18


def test_colour_off_changes_nothing(marked):
    assert transforms.random_colour(marked[0], 0.0, 0.0, 0.0, SEEDS[0]) is marked[0]


def test_brightness_and_contrast_stay_within_their_ranges():
    grey = tf.fill([4, 4, 3], tf.constant(100, tf.uint8))
    shifts = [int(transforms.random_colour(grey, 0.0, 0.1, 0.0, seed)[0, 0, 0]) - 100 for seed in SEEDS]
    assert -26 <= min(shifts) < -10 and 10 < max(shifts) <= 26
    halves = tf.constant([[[50] * 3, [150] * 3]], tf.uint8)
    for seed in SEEDS:
        low, high = transforms.random_colour(halves, 0.0, 0.0, 0.2, seed)[0, :, 0].numpy().astype(int)
        assert 80 - 1 <= high - low <= 120 + 1 and abs(high + low - 200) <= 1


def test_hue_turns_the_colour_and_keeps_its_value():
    colour = (200, 60, 60)
    image = tf.constant([[colour]], tf.uint8)
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    turns = []
    for seed in SEEDS:
        result = transforms.random_colour(image, 0.1, 0.0, 0.0, seed)[0, 0].numpy() / 255
        new_hue, new_saturation, new_value = colorsys.rgb_to_hsv(*result)
        assert abs(new_saturation - saturation) < 0.02 and abs(new_value - value) < 0.01
        turns.append((new_hue - hue + 0.5) % 1 - 0.5)
    assert -0.105 <= min(turns) < -0.05 and 0.05 < max(turns) <= 0.105


@pytest.mark.parametrize("method", ["scale_crop", "resize_or_crop"])
def test_augmentation_is_a_function_of_its_seed(marked, method):
    augment = Augmentation(32, method=method, resize_size=40)
    first = [augment(*marked, seed) for seed in SEEDS[:6]]
    again = [tf.function(augment)(*marked, seed) for seed in SEEDS[:6]]
    for (image, label), (image_again, label_again) in zip(first, again, strict=True):
        np.testing.assert_array_equal(label, label_again)
        np.testing.assert_allclose(image, image_again, atol=1)  # graph optimisation may round the other way
    assert len({image.numpy().tobytes() for image, _ in first}) == 6
