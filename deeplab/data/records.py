"""A record of a shard: how an image and its mask are written, and how they are read back.

A record holds the JPEG's bytes as they are on disk and the mask as an 8-bit greyscale PNG of class indices, so that
reading needs only `tf.io`.
"""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from deeplab.data.palette import IGNORE_LABEL
from deeplab.data.voc import Pair
from deeplab.errors import DataError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Of an image or mask: Pillow's safe limit, 89 million. A header of a few bytes can claim any size."""

_PNG_BIT_DEPTH = 24  # offset of this byte in a PNG: signature, length, "IHDR", width, height

FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/jpeg": tf.io.FixedLenFeature([], tf.string),
    "label/png": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
}


def encode_example(pair: Pair, num_classes: int) -> tuple[bytes, np.ndarray]:
    """Checks one image and mask; returns the serialized record and the mask (uint8 [height, width]).

    Raises:
        DataError: names the file and what is wrong with it.
    """
    jpeg = _read_bytes(pair.image)
    if not jpeg.startswith(b"\xff\xd8"):
        raise DataError(f"{pair.image}: not a JPEG file")
    try:
        height, width, _ = tf.io.extract_jpeg_shape(jpeg).numpy().tolist()
        if height * width > MAX_PIXELS:
            raise DataError(f"{pair.image}: {width}x{height} pixels, more than {MAX_PIXELS:,}")
        tf.io.decode_jpeg(jpeg, channels=3)
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"{pair.image}: unreadable JPEG ({_first_words(error.message)})") from error
    mask = read_mask(pair.mask, num_classes)
    if mask.shape != (height, width):
        raise DataError(
            f"{pair.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, its image {pair.image.name} is {width}x{height}"
        )
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "PNG")
    feature = {
        "id": _bytes_feature(pair.name.encode()),
        "image/jpeg": _bytes_feature(jpeg),
        "label/png": _bytes_feature(png.getvalue()),
        "height": tf.train.Feature(int64_list=tf.train.Int64List(value=[height])),
        "width": tf.train.Feature(int64_list=tf.train.Int64List(value=[width])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True), mask


def read_mask(path: Path, num_classes: int) -> np.ndarray:
    """Class indices of a mask: uint8 [height, width], each 0..num_classes-1 or 255.

    Raises:
        DataError: unreadable, not a palettised or 8-bit greyscale PNG, or an index without a class.
    """
    png = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            mode, bit_depth = image.mode, png[_PNG_BIT_DEPTH]
            image.verify()  # the checksums, at which decoding does not look
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            mask = np.asarray(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: unreadable PNG (of another format, or cut short)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable PNG ({_first_words(str(error))})") from error
    # Pillow stretches greyscale of fewer bits to 0..255: index 1 of 4 bits would be 17.
    if mode != "P" and (mode, bit_depth) != ("L", 8):
        raise DataError(
            f"{path}: a PNG of mode {mode}, {bit_depth} bits; a mask holds class indices (palette, or 8-bit greyscale)"
            "; docs/moving.md makes them of colours"
        )
    foreign = np.setdiff1d(np.unique(mask), [*range(num_classes), IGNORE_LABEL])
    if foreign.size:
        raise DataError(
            f"{path}: label {foreign[0]}, but there are {num_classes} classes (0..{num_classes - 1}) "
            f"and {IGNORE_LABEL} for void"
        )
    return mask


def parse_example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Serialized record (string scalar) -> scalar tensors by the keys of `FEATURES`. Nothing is decoded."""
    return tf.io.parse_single_example(record, FEATURES)


def decode_image(content: tf.Tensor) -> tf.Tensor:
    """The bytes of a JPEG or PNG file (string scalar) -> uint8 RGB [height, width, 3].

    By the accurate inverse DCT, with which Pillow's values are the same: TensorFlow's default, the fast one, changes
    most values, by up to 20, and with them the class of some pixels.
    """
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")  # the same operation reads PNG


def decode_example(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Parsed record -> image (uint8 [height, width, 3], RGB) and label (uint8 [height, width, 1])."""
    image = decode_image(features["image/jpeg"])
    label = tf.io.decode_png(features["label/png"], channels=1)
    return image, label


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, though its split names it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _first_words(message: str) -> str:
    return message.splitlines()[0][:120] if message else "no details"
