"""Image and label move together; void stays void."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from deeplab.data.input import transforms
from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.errors import UsageError

SEEDS = [tf.constant([7, index], tf.int64) for index in range(24)]
DRAWS = [tf.random.stateless_uniform([4], seed) for seed in SEEDS]


@pytest.fixture
def marked():
    """An image whose red channel is its label, so that the two can be compared after any geometric transform."""
    label = np.kron(np.random.default_rng(0).choice([0, 60, 120, 255], (5, 7)), np.ones((8, 8))).astype(np.uint8)
    image = np.stack([label, 255 - label, np.full_like(label, 9)], -1)
    return tf.constant(image), tf.constant(label[..., None])


def test_pad_adds_mean_color_and_void_at_bottom_and_right(marked):
    image, label = (tensor.numpy() for tensor in transforms.pad(*marked, 50, 61))
    assert image.shape == (50, 61, 3) and label.shape == (50, 61, 1)
    np.testing.assert_array_equal(image[:40, :56], marked[0])
    np.testing.assert_array_equal(label[:40, :56], marked[1])
    for outside in (np.s_[40:], np.s_[:, 56:]):
        assert (image[outside] == transforms.MEAN_COLOR).all() and (label[outside] == 255).all()
    np.testing.assert_array_equal(transforms.pad(*marked, 40, 56)[0], marked[0])


def test_resize_is_half_pixel_bilinear_and_nearest(marked):
    image, label = (tensor.numpy() for tensor in transforms.resize(*marked, 20, 28))
    pixels = marked[0].numpy().astype(np.float64)
    # Half the size with half-pixel centres is the mean of 2x2 blocks.
    blocks = pixels.reshape(20, 2, 28, 2, 3).mean((1, 3))
    np.testing.assert_allclose(image, blocks, atol=0.5001)
    assert set(np.unique(label)) <= set(np.unique(marked[1]))
    np.testing.assert_array_equal(label[..., 0], marked[1].numpy()[1::2, 1::2, 0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 90), (40, 56), (63, 33), (131, 177)])
def test_resize_equals_the_plain_one(height, width):
    rng = np.random.default_rng(1)
    image, label = rng.integers(0, 256, (40, 56, 3), np.uint8), rng.integers(0, 256, (40, 56, 1), np.uint8)
    resized, labels = transforms.resize(tf.constant(image), tf.constant(label), height, width)
    plain = tf.image.resize(image, (height, width), "bilinear").numpy()
    np.testing.assert_allclose(resized, plain, atol=0.501)
    rows = np.floor((np.arange(height) + 0.5) * 40 / height + 1e-9).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * 56 / width + 1e-9).astype(int)
    np.testing.assert_array_equal(labels[..., 0], label[rows][:, columns, 0])
    mirrored = transforms.resize(tf.constant(image), tf.constant(label), height, width, mirrored=True)
    np.testing.assert_allclose(mirrored[0].numpy()[:, ::-1], plain, atol=0.501)
    # Where a row's centre lies between two pixels, the right one is used, seen from either side.
    np.testing.assert_array_equal(mirrored[1].numpy()[:, ::-1], labels)


def test_crop_is_a_window_of_both(marked):
    offsets = set()
    full = np.concatenate([marked[0].numpy(), marked[1].numpy()], -1)
    for draws in DRAWS:
        image, label = transforms.random_window(*marked, 33, draws[1:3])
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
    tops = {int(transforms.random_window(image, label, 2, draws[1:3])[1][0, 0, 0]) for draws in DRAWS}
    assert tops == {0, 1, 2}


@pytest.mark.parametrize("crop_size", [16, 48])
def test_scale_crop_moves_label_with_image_and_pads_with_void(marked, crop_size):
    sizes = set()
    for draws in DRAWS:
        image, label = (t.numpy() for t in transforms.random_scale_crop(*marked, crop_size, 0.5, 2.0, draws))
        assert image.shape == (crop_size, crop_size, 3) and label.shape == (crop_size, crop_size, 1)
        assert set(np.unique(label)) <= {0, 60, 120, 255}
        # Away from edges between labels the red channel is the label; padding is mean colour over void.
        inner = np.zeros(label.shape[:2], bool)
        inner[1:-1, 1:-1] = np.logical_and.reduce(
            [np.roll(label[..., 0], shift, axis) == label[..., 0] for shift in (-1, 1) for axis in (0, 1)]
        )[1:-1, 1:-1]
        padded = (image == transforms.MEAN_COLOR).all(-1)
        assert (label[padded] == 255).all()
        agree = image[..., 0][inner & ~padded] == label[..., 0][inner & ~padded]
        assert agree.mean() > 0.9
        sizes.add(int(padded.sum()))
    assert len(sizes) > 3 or crop_size == 16


def test_scale_one_is_a_plain_crop(marked):
    for draws in DRAWS[:4]:
        image, label = transforms.random_scale_crop(*marked, 32, 1.0, 1.0, draws)
        np.testing.assert_array_equal(image[..., 0], label[..., 0])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_crop_is_scaling_the_whole_then_cropping(marked, scale):
    """If the window is whole source pixels, except for the crop's outermost pixels, which the plain form smooths."""
    size = (int(40 * scale), int(56 * scale))
    whole = [tensor.numpy().astype(int) for tensor in transforms.resize(*marked, *size)]
    for draws in DRAWS[:6]:
        image, label = (t.numpy() for t in transforms.random_scale_crop(*marked, 32, scale, scale, draws))
        room = np.maximum(np.array([40, 56]) - int(32 / scale), 0)
        top, left = (np.floor(draws.numpy()[1:3] * (room + 1)) * scale).astype(int)
        step = -1 if draws[3] < 0.5 else 1
        expected = [pixels[top : top + 32, left : left + 32][:, ::step] for pixels in whole]
        height, width = expected[0].shape[:2]
        np.testing.assert_array_equal(label[:height, :width], expected[1])
        inner = np.s_[1 : height - 1, 1 : width - 1]
        np.testing.assert_array_equal(image[:height, :width][inner], expected[0][inner])
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()
        assert (image[height:] == transforms.MEAN_COLOR).all() and (image[:, width:] == transforms.MEAN_COLOR).all()


def test_scale_crop_of_a_sliver():
    """An image of one row is scaled to one row, not to zero."""
    image, label = transforms.random_scale_crop(
        tf.zeros([1, 200, 3], tf.uint8), tf.zeros([1, 200, 1], tf.uint8), 32, 0.3, 0.3, DRAWS[0]
    )
    assert (label[0] == 0).numpy().all() and (label[1:] == 255).numpy().all() and image.shape == (32, 32, 3)


def test_resize_or_crop_does_each_for_about_half():
    # A ramp over the whole width: squashed it spans all of it, cropped from 444 it does not.
    ramp = tf.cast(tf.linspace(0.0, 255.0, 500), tf.uint8)
    image = tf.tile(ramp[None, :, None], [375, 1, 3])
    label = tf.zeros([375, 500, 1], tf.uint8)
    squashed = 0
    for draws in DRAWS:
        result, labels = transforms.random_resize_or_crop(image, label, 384, 444, draws)
        assert result.shape == (384, 384, 3) and labels.shape == (384, 384, 1)
        span = abs(int(result[0, -1, 0]) - int(result[0, 0, 0]))
        assert span > 250 or span == pytest.approx(255 * 384 / 444, abs=3)
        squashed += span > 250
    assert 6 <= squashed <= 18


@pytest.mark.parametrize("shifts", [(0, 0, 0), (0.1, 0.1, 0.2), (-0.1, -0.1, -0.2), (0.03, 0.3, 0), (-0.5, 0, 0.5)])
def test_colors_are_shifted_as_by_hand(shifts):
    """Pixel by pixel with Python's colorsys, in [0, 1], in the textbook's order, clipped after each."""
    hue, brightness, contrast = shifts
    image = np.random.default_rng(2).integers(0, 256, (9, 11, 3), np.uint8)
    image[0, :3] = 77  # grey has no hue
    image[1, :3] = [255, 0, 255]
    expected = np.empty((9, 11, 3))
    for place in np.ndindex(9, 11):
        pixel_hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        expected[place] = colorsys.hsv_to_rgb((pixel_hue + hue) % 1, saturation, value)
    expected = np.clip(expected + brightness, 0, 1)
    means = expected.mean((0, 1))
    expected = np.clip(expected + contrast * (expected - means), 0, 1)
    shifted = transforms.shift_colors(tf.constant(image), *(tf.constant(shift, tf.float32) for shift in shifts))
    np.testing.assert_allclose(shifted, 255 * expected, atol=0.01)
    # A batch whose first image has other shifts.
    other, own = (tf.reshape(tf.constant(values, tf.float32), [3, 1, 1, 1, 1]) for values in ((0.3, 0, 0), shifts))
    of_batch = transforms.shift_colors(tf.stack([image, image]), *tf.unstack(tf.concat([other, own], 1)))
    np.testing.assert_allclose(of_batch[1], 255 * expected, atol=0.01)


def test_shifts_fill_their_ranges_and_half_is_mirrored():
    ramp = tf.cast(tf.tile(tf.range(100, 132)[tf.newaxis, :, tf.newaxis], [32, 1, 3]), tf.uint8)
    augment = tf.function(
        Augmentation(AugmentationSettings(32, min_scale=1, max_scale=1, hue=0.1, brightness=0.2, contrast=0.3))
    )
    crops = [augment(ramp, ramp[..., :1], tf.constant([3, index])) for index in range(200)]
    shifts = np.stack([crop["shifts"] for crop in crops])
    for column, largest in zip(shifts.T, (0.1, 0.2, 0.3), strict=True):
        assert -largest <= column.min() < -0.9 * largest and 0.9 * largest < column.max() <= largest
        assert abs(column.mean()) < 0.1 * largest
    mirrored = [bool(crop["image"][0, 0, 0] == 131) for crop in crops]
    assert mirrored == [bool(crop["label"][0, 0] == 131) for crop in crops]
    assert 75 <= sum(mirrored) <= 125


@pytest.mark.parametrize("gpus", [[], ["GPU:0"]], ids=["on CPUs", "as on GPUs"])
def test_finish_gives_each_image_its_own_shifts(marked, monkeypatch, gpus):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpus)
    images = tf.stack([marked[0]] * 2)
    shifts = tf.constant([[0.0, 0.0, 0.0], [0.1, -0.1, 0.2]])
    batch = {"image": images, "label": images[..., 0], "shifts": shifts}
    finished = Augmentation(AugmentationSettings(32)).finish(batch)
    np.testing.assert_allclose(finished["image"][0], marked[0], atol=1e-3)
    np.testing.assert_allclose(finished["image"][1], transforms.shift_colors(marked[0], *shifts[1]), atol=1e-3)
    np.testing.assert_array_equal(finished["label"], batch["label"])


def test_finish_without_colors_changes_nothing(marked):
    batch = {"image": marked[0][tf.newaxis]}
    assert Augmentation(AugmentationSettings(32, hue=0, brightness=0, contrast=0)).finish(batch) is batch


@pytest.mark.parametrize("augmentation", ["scale_crop", "resize_or_crop"])
def test_augmentation_is_a_function_of_its_seed(marked, augmentation):
    augment = Augmentation(AugmentationSettings(32, augmentation=augmentation, resize_size=40))
    first = [augment(*marked, seed) for seed in SEEDS[:6]]
    again = [tf.function(augment)(*marked, seed) for seed in SEEDS[:6]]
    for crop, crop_again in zip(first, again, strict=True):
        for name, value in crop.items():
            np.testing.assert_array_equal(value, crop_again[name])
    assert len({(crop["image"].numpy().tobytes(), crop["shifts"].numpy().tobytes()) for crop in first}) == 6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_scale": 3.0}, "--min_scale=3.0: larger than --max_scale=2.0"),
        ({"augmentation": "resize_or_crop", "resize_size": 40}, "--resize_size=40: smaller than --crop_size=64"),
    ],
)
def test_contradictory_augmentations_are_rejected(settings, reason):
    with pytest.raises(UsageError, match=reason):
        Augmentation(AugmentationSettings(64, **settings))
