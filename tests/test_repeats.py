"""Class weights and repeated images, by hand and by counting."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from deeplab.data.input.class_weights import class_weights, inverse_frequency_weights, median_frequency_weights
from deeplab.data.input.repeats import NO_REPEATS, find_repeats
from deeplab.data.input.settings import SamplingSettings
from deeplab.data.input.stored import pixels_by_example
from deeplab.data.input.training_batches import training_names
from deeplab.data.shards.records import decode_example, parse_example
from deeplab.data.shards.split import Split
from deeplab.errors import UsageError


@pytest.fixture(scope="module")
def split(shards):
    return Split.read(shards, "train")


def test_inverse_frequency_by_hand():
    # 60, 30 and 10 pixels of three classes: weights in the ratio 1/6 : 1/3 : 1, mean 1 over the 100 pixels.
    weights = inverse_frequency_weights([60, 30, 10, 0])
    assert weights == pytest.approx((100 / 180, 100 / 90, 100 / 30, 0.0))
    assert np.dot(weights, [60, 30, 10, 0]) == pytest.approx(100)


def test_median_frequency_by_hand():
    # Class 0: 9 of 20 pixels of both images; class 1: 8 of 10 of the first; class 2: 3 of 10 of the second.
    weights = median_frequency_weights(np.array([[2, 8, 0, 0], [7, 0, 3, 0]]))
    assert weights == pytest.approx((0.45 / 0.45, 0.45 / 0.8, 0.45 / 0.3, 0.0))


def test_pixels_of_each_example_are_those_of_its_mask(split):
    names, pixels = pixels_by_example(split)
    assert pixels.sum(0).tolist() == list(split.class_pixels)
    labels = {}
    for path in split.shard_paths:
        for record in tf.data.TFRecordDataset(path):
            features = parse_example(record)
            labels[features["id"].numpy().decode()] = decode_example(features)[1].numpy()
    for name, counts in zip(names, pixels, strict=True):
        assert counts.tolist() == [int((labels[name] == index).sum()) for index in range(split.num_classes)]


def test_weights_are_taken_from_a_list_or_a_file(split, tmp_path):
    numbers = [0.5 + index for index in range(split.num_classes)]
    assert class_weights(",".join(map(str, numbers)), split) == tuple(numbers)
    path = tmp_path / "weights.txt"
    for lines in (numbers, [f"{name}  {weight}" for name, weight in zip(split.class_names, numbers, strict=True)]):
        path.write_text("\n".join(map(str, lines)) + "\n")
        assert class_weights(str(path), split) == tuple(numbers)
    assert class_weights("none", split) is None
    assert class_weights("inverse_frequency", split) == inverse_frequency_weights(split.class_pixels)
    assert class_weights("median_frequency", split) == median_frequency_weights(pixels_by_example(split)[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "one number, 0 or more, is needed for each of"),
        ("{zeros}", "one number, 0 or more"),
        ("-{ones}", "one number, 0 or more"),
        ("1,,2", "could not convert"),
        ("inverse", "there is no such file"),
    ],
)
def test_wrong_weights_are_refused(split, text, message):
    text = text.format(zeros=",".join("0" * split.num_classes), ones=",".join("1" * split.num_classes))
    with pytest.raises(UsageError, match=message):
        class_weights(text, split)


def test_a_file_in_another_order_is_refused(split, tmp_path):
    path = tmp_path / "weights.txt"
    path.write_text("".join(f"{name} 1\n" for name in reversed(split.class_names)))
    with pytest.raises(UsageError, match="expected 'background' here; the order is that of the classes"):
        class_weights(str(path), split)


def test_repeated_images_appear_so_often_in_each_epoch_and_resume_exactly(split, caplog):
    caplog.set_level("INFO", "deeplab")
    names, pixels = pixels_by_example(split)
    wanted = split.class_names[int(np.argmin(np.where((pixels > 0).sum(0) > 0, (pixels > 0).sum(0), 1000)))]
    holding = {name for name, row in zip(names, pixels, strict=True) if row[split.class_names.index(wanted)]}
    repeats = find_repeats(SamplingSettings(wanted, 3), split)
    assert set(repeats.names) == holding and 0 < len(holding) < len(names)
    size = len(names) + 2 * len(holding)
    assert f"{len(holding)} images appear 3 times in each epoch, which has {size} examples" in caplog.text
    seen = training_names(split, 5, 0, 3 * size, repeats)
    epochs = [seen[start : start + size] for start in range(0, 3 * size, size)]
    for epoch in epochs:
        assert Counter(epoch) == {name: 3 if name in holding else 1 for name in names}
    assert epochs[0] != epochs[1] != epochs[2]
    for first in (1, size - 1, size + 4):
        assert training_names(split, 5, first, size, repeats) == seen[first : first + size]


def test_without_classes_nothing_is_repeated(split):
    assert find_repeats(SamplingSettings(), split) == NO_REPEATS and NO_REPEATS.num_extra == 0
    with pytest.raises(UsageError, match="--repeat_classes=yeti: no class 'yeti'; the classes are background"):
        find_repeats(SamplingSettings("yeti"), split)
