"""A record of a shard: how an image and its mask are written, and how they are read back.

A record holds the image as a JPEG or an 8-bit RGB PNG, as `images.stored_form` says, and the mask as an 8-bit grayscale
PNG of class indices, so that reading needs only `tf.io`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab.data.shards.settings import REFUSE, TURN
from deeplab.data.shards.tiles import WHOLE, Tiles
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.images import MAX_PIXELS, ImageFile, as_png, check_pixels
from deeplab.data.source.masks import Mask, read_mask
from deeplab.data.source.voc import Pair
from deeplab.errors import DataError

FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/jpeg": tf.io.FixedLenFeature([], tf.string),
    "label/png": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
}
"""`image/jpeg` may be a PNG; `tf.io.decode_jpeg` reads both."""


@dataclass(frozen=True)
class Encoded:
    """A serialized record, the name of its example, its mask, and how many bands beside the colors are not in it."""

    record: bytes
    name: str
    mask: Mask
    other_bands: int


@dataclass(frozen=True)
class Form:
    """How examples are stored.

    Attributes:
        classes: the class table.
        exif: one of `EXIF_CHOICES`.
        tiles: how large images are cut.
        max_pixels: larger images and masks are refused.
    """

    classes: ClassTable
    exif: str = REFUSE
    tiles: Tiles = WHOLE
    max_pixels: int = MAX_PIXELS


def encode_examples(pair: Pair, form: Form) -> Iterator[Encoded]:
    """Checks one image and mask, and serializes them: as one example, or as one for each of their tiles.

    Raises:
        DataError: before the first one; names the file and the problem.
    """
    if pair.problem:
        raise DataError(pair.problem)
    image = ImageFile(pair.image, form.max_pixels, "--max_pixels")
    check_pixels(image.name, image.size, form.max_pixels, "--max_pixels=")
    mask = read_mask(pair.mask, form.classes, form.max_pixels)
    height, width = mask.labels.shape
    is_turned = _is_turned(image, pair, mask.labels.shape, form.exif)
    if not form.tiles.cut(height, width):
        yield _whole(pair, image, mask, is_turned)
        return
    pixels = image.pixels(is_turned)
    for tile in form.tiles.of(pair.name, height, width):
        place = (tile.rows, tile.columns)
        labels = np.ascontiguousarray(mask.labels[place])
        record = _record(tile.name, as_png(np.ascontiguousarray(pixels[place])), labels)
        yield Encoded(record, tile.name, Mask(labels, mask.palette), image.other_bands)


def _whole(pair: Pair, image: ImageFile, mask: Mask, is_turned: bool) -> Encoded:
    content, _, _ = image.stored_form(is_turned)
    try:
        tf.io.decode_jpeg(content, channels=3)
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"{pair.image}: unreadable JPEG ({_first_words(error.message)})") from error
    return Encoded(_record(pair.name, content, mask.labels), pair.name, mask, image.other_bands)


def _record(name: str, content: bytes, labels: np.ndarray) -> bytes:
    height, width = labels.shape
    feature = {
        "id": _bytes_feature(name.encode()),
        "image/jpeg": _bytes_feature(content),
        "label/png": _bytes_feature(as_png(labels)),
        "height": tf.train.Feature(int64_list=tf.train.Int64List(value=[height])),
        "width": tf.train.Feature(int64_list=tf.train.Int64List(value=[width])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _is_turned(image: ImageFile, pair: Pair, mask_shape: tuple[int, ...], exif: str) -> bool:
    """Whether the mask belongs to the image as turned by EXIF, not as stored."""
    height, width = mask_shape
    stored = image.size
    turned = stored[::-1] if image.orientation >= 5 else stored
    if (width, height) not in (stored, turned):
        raise DataError(f"{pair.mask}: {width}x{height} pixels, its image {pair.image.name} is {stored[0]}x{stored[1]}")
    if image.orientation == 1:
        return False
    if stored != turned:
        return (width, height) == turned
    if exif == REFUSE:
        raise DataError(
            f"{pair.image}: EXIF orientation {image.orientation} turns this image, and its mask fits it either way; "
            "was the mask drawn on the turned image, as most tools show it (--exif=turn), or on the stored pixels "
            "(--exif=ignore)?"
        )
    return exif == TURN


def parse_example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Serialized record (string scalar) -> scalar tensors by the keys of `FEATURES`. Nothing is decoded."""
    return tf.io.parse_single_example(record, FEATURES)


def decode_image(content: tf.Tensor) -> tf.Tensor:
    """The bytes of a JPEG or PNG file (string scalar) -> uint8 RGB [height, width, 3].

    Uses the accurate inverse DCT, which gives the same values as Pillow. TensorFlow's default, the fast one, changes
    most values, by up to 20, and thereby the class of some pixels.
    """
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")  # the same operation reads PNG


def decode_example(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Parsed record -> image (uint8 [height, width, 3], RGB) and label (uint8 [height, width, 1])."""
    image = decode_image(features["image/jpeg"])
    label = tf.io.decode_png(features["label/png"], channels=1)
    return image, label


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _first_words(message: str) -> str:
    return message.splitlines()[0][:120] if message else "no details"
