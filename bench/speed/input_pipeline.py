"""Examples/s of the training chain compared with its limit, decoding only, and with other implementations.

[VOC_DIR=...] python bench/speed/input_pipeline.py

All run on the host's cores, from encoded files in memory or in the page cache. "ours" ends where the batch leaves for
the device; "ours, finished" adds, on the same cores, the device's part: colours. The environment variable TORCH_PYTHON
names a Python with torch, if this one has none. The chains take turns, so that other load affects all of them.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import images_of_vocs_size, pytorch, ratio, report, take_turns, write_shards
from PIL import Image

from deeplab.data.input import transforms
from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.input.training_batches import training_batches
from deeplab.data.shards import records
from deeplab.data.shards.split import Split

EXAMPLES = 336
BATCH = 8
ROUNDS = 3
CROP = 513
TEXTBOOK_CROP = 384
TEXTBOOK_SIZE = 444
HUE = 0.1
BRIGHTNESS = 0.1
CONTRAST = 0.2

Encoded = list[tuple[bytes, bytes]]


def rate(batches: Iterator, batch_size: int = BATCH) -> float:
    """Examples/s after the first batch, so that starting threads and processes is not counted."""
    next(batches)
    start = time.perf_counter()
    number = sum(1 for _ in batches)
    return number * batch_size / (time.perf_counter() - start)


def our_chain(folder: Path, augmentation: Augmentation, finish: bool) -> Callable[[], float]:
    """`training_batches` as training calls it; `finish` adds the device's part, on the host."""
    split = Split.read(folder, "train")
    finish_batch = tf.function(augmentation.finish)

    def run() -> float:
        batches = training_batches(split, augmentation, BATCH, seed=0).take(EXAMPLES // BATCH)
        return rate(map(finish_batch, batches) if finish else iter(batches))

    return run


def tf_data_chain(encoded: Encoded, example: Callable) -> Callable[[], float]:
    """Encoded bytes -> `example` -> batches, in parallel as tf.data decides."""
    source = tf.data.Dataset.from_tensor_slices(tuple(map(list, zip(*encoded, strict=True)))).repeat()
    dataset = source.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE).take(EXAMPLES // BATCH)
    return lambda: rate(iter(dataset))


def decoding(encoded: Encoded) -> Callable[[], float]:
    """The limit: only decoding, as in our chain, without batching."""

    def decode(jpeg: tf.Tensor, png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return records.decode_example({"image/jpeg": jpeg, "label/png": png})

    source = tf.data.Dataset.from_tensor_slices(tuple(map(list, zip(*encoded, strict=True)))).repeat().take(EXAMPLES)
    dataset = source.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).prefetch(tf.data.AUTOTUNE)
    return lambda: rate(iter(dataset), batch_size=1)


def plain_example(color: bool) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """As in most training programs: the whole image is scaled, padded and cropped, in float32."""

    def example(jpeg: tf.Tensor, png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(tf.io.decode_jpeg(jpeg, channels=3), tf.float32)
        label = tf.io.decode_png(png, channels=1)
        scale = tf.random.uniform([], 0.5, 2.0)
        size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
        image = tf.image.resize(image, size)
        label = tf.image.resize(label, size, "nearest")
        padding = tf.maximum(CROP - size, 0)
        paddings = [[0, padding[0]], [0, padding[1]], [0, 0]]
        mean = tf.constant(transforms.MEAN_COLOR, tf.float32)
        image = tf.pad(image - mean, paddings) + mean
        label = tf.pad(label, paddings, constant_values=255)
        both = tf.concat([image, tf.cast(label, tf.float32)], 2)
        both = tf.image.random_flip_left_right(tf.image.random_crop(both, [CROP, CROP, 4]))
        image = both[..., :3]
        label = tf.cast(both[..., 3], tf.uint8)
        if color:
            image = tf.image.random_hue(image / 255, HUE)
            image = tf.clip_by_value(tf.image.random_brightness(image, BRIGHTNESS), 0, 1)
            image = tf.clip_by_value(tf.image.random_contrast(image, 1 - CONTRAST, 1 + CONTRAST), 0, 1) * 255
        return image, label

    return example


def textbook_chain(encoded: Encoded) -> Callable[[], float]:
    """TensorFlow in Action, chapter 8: a generator, Pillow through `tf.numpy_function`, then tf.image on floats."""

    def load(jpeg: bytes, png: bytes) -> tuple[np.ndarray, np.ndarray]:
        return np.array(Image.open(io.BytesIO(jpeg))), np.array(Image.open(io.BytesIO(png)))

    def example(jpeg: tf.Tensor, png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = tf.numpy_function(load, [jpeg, png], (tf.uint8, tf.uint8))
        image = tf.ensure_shape(image, [None, None, 3])
        label = tf.ensure_shape(label, [None, None])[..., tf.newaxis]
        image = tf.cast(image, tf.float32) / 255
        side = TEXTBOOK_SIZE if tf.random.uniform([]) < 0.5 else TEXTBOOK_CROP
        both = tf.concat(
            [
                tf.image.resize(image, [side, side]),
                tf.cast(tf.image.resize(label, [side, side], "nearest"), tf.float32),
            ],
            2,
        )
        both = tf.image.random_crop(both, [TEXTBOOK_CROP, TEXTBOOK_CROP, 4])
        both = tf.image.random_flip_left_right(both)
        image = tf.image.random_hue(both[..., :3], HUE)
        image = tf.clip_by_value(tf.image.random_brightness(image, BRIGHTNESS), 0, 1)
        image = tf.clip_by_value(tf.image.random_contrast(image, 1 - CONTRAST, 1 + CONTRAST), 0, 1)
        return image, tf.cast(both[..., 3], tf.uint8)

    specification = (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.string))
    source = tf.data.Dataset.from_generator(lambda: islice(cycle(encoded), EXAMPLES), output_signature=specification)
    dataset = source.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return lambda: rate(iter(dataset))


def main() -> None:
    """Rates of all chains, and the ratios of interest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = images_of_vocs_size(folder, EXAMPLES)
        stored = tf.data.TFRecordDataset(write_shards(folder, pairs).shard_paths)
        features = [records.parse_example(record) for record in stored]
        encoded = [(each["image/jpeg"].numpy(), each["label/png"].numpy()) for each in features]
        colored = Augmentation(AugmentationSettings(CROP))
        textbook = Augmentation(
            AugmentationSettings(TEXTBOOK_CROP, augmentation="resize_or_crop", resize_size=TEXTBOOK_SIZE)
        )
        variants = {
            "decoding alone": decoding(encoded),
            "ours": our_chain(folder, colored, finish=False),
            "ours, finished": our_chain(folder, colored, finish=True),
            "plain tf.data without colour": tf_data_chain(encoded, plain_example(color=False)),
            "plain tf.data": tf_data_chain(encoded, plain_example(color=True)),
            "ours at 384": our_chain(folder, textbook, finish=False),
            "ours at 384, finished": our_chain(folder, textbook, finish=True),
            "textbook at 384": textbook_chain(encoded),
        }
        if measure := pytorch("pytorch_input.py", *(str(file) for pair in pairs for file in (pair.image, pair.mask))):
            variants["PyTorch, two workers"] = measure
        rates = take_turns(variants, ROUNDS)
    limit = rates["decoding alone"]
    rows = [(name, float(np.median(values)), ratio(values, limit)) for name, values in rates.items()]
    figures = {
        "ours_over_decoding": ratio(rates["ours"], limit),
        "finished_over_decoding": ratio(rates["ours, finished"], limit),
        "ours_over_plain_without_colour": ratio(rates["ours"], rates["plain tf.data without colour"]),
        "ours_over_plain": ratio(rates["ours"], rates["plain tf.data"]),
        "finished_over_plain": ratio(rates["ours, finished"], rates["plain tf.data"]),
        "ours_over_textbook": ratio(rates["ours at 384"], rates["textbook at 384"]),
        "finished_over_textbook": ratio(rates["ours at 384, finished"], rates["textbook at 384"]),
        "cores": os.cpu_count(),
    }
    if "PyTorch, two workers" in rates:
        figures["ours_over_pytorch"] = ratio(rates["ours"], rates["PyTorch, two workers"])
        figures["finished_over_pytorch"] = ratio(rates["ours, finished"], rates["PyTorch, two workers"])
    report("input_pipeline", ("chain", "examples/s", "of decoding alone"), rows, figures)


if __name__ == "__main__":
    main()
