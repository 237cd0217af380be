"""Image files decoded by TensorFlow's operations alone, since a SavedModel holds nothing else.

The rule is that of `deeplab.data.source.images`: the same pixels, upright, or an error that says why not. TensorFlow's
own decoders shorten 16 bits to 8, take a BMP's palette for grays, make a GIF's transparent pixels black and ignore
EXIF. The functions here are for a `tf.function`: AutoGraph turns their conditions and loops into those of the graph.
"""

import tensorflow as tf

from deeplab.data.shards.records import decode_image

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_BMP = b"BM"
_GIF = b"GIF8"

_JPEG_EXIF = b"Exif\0\0"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_PNG_EXIF_AS_TEXT = b"Raw profile type exif\0"
_EXIF_ORIENTATION = 274
_XMP_ORIENTATION = '(?s).*?tiff:Orientation(?:="|>)([0-9]).*'

# Orientations whose pixels are made upright by exchanging rows and columns, then reversing columns, then rows.
_TRANSPOSED = (5, 6, 7, 8)
_MIRRORED = (2, 3, 6, 7)
_UPSIDE_DOWN = (3, 4, 7, 8)

_BMP_BITS = (8, 24, 32)
_BMP_BITFIELDS = 3
_BGRX = (0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0)  # the masks of red, green and blue that TensorFlow reads


def decode(content: tf.Tensor) -> tf.Tensor:
    """A JPEG, PNG, BMP or GIF file (string scalar) -> the pixels of `read_image`: uint8 RGB [height, width, 3].

    Raises, when the graph runs:
        tf.errors.InvalidArgumentError: another format, damaged, or of a kind that TensorFlow decodes otherwise.
    """
    data = tf.io.decode_raw(content, tf.uint8)
    if _begins(content, _JPEG):
        image = _turned(decode_image(content), _jpeg_orientation(content, data))
    elif _begins(content, _PNG):
        image = _turned(_decode_png(content, data), _png_orientation(content, data))
    elif _begins(content, _BMP):
        image = _decode_bmp(content, data)
    else:
        is_gif = _begins(content, _GIF)
        image = _decode_gif(_checked(content, is_gif, "not a JPEG, PNG, BMP or GIF file"), data)
    return image


def _begins(content: tf.Tensor, beginning: bytes) -> tf.Tensor:
    return tf.strings.substr(content, 0, len(beginning)) == beginning


def _checked(content: tf.Tensor, condition: tf.Tensor, otherwise: str) -> tf.Tensor:
    """The same content; the run of the graph ends with these words before it is read if the condition is false."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [otherwise])]):
        return tf.identity(content)


def _number(data: tf.Tensor, start: tf.Tensor | int, size: int, little: tf.Tensor | bool = False) -> tf.Tensor:
    """The whole number (int64) in `size` bytes; what a file that is cut short lacks of them is taken for 0."""
    digits = tf.concat([data[start : start + size], tf.zeros([size], tf.uint8)], 0)[:size]
    powers = tf.constant([256**place for place in range(size)], tf.int64)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.where(little, powers, powers[::-1]))


def _decode_png(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    bits = _number(data, 24, 1)
    words = "a PNG of 16 bits per channel, but only 8-bit images are supported; rescale all images by the same factor"
    return decode_image(_checked(content, bits <= 8, f"{words} to 0..255"))


def _decode_bmp(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """24 or 32 bits per pixel, or 8 that index a palette of four bytes a color: blue, green, red, 0."""
    header_size = _number(data, 14, 4, little=True)
    bits = _number(data, 28, 2, little=True)
    compression = _number(data, 30, 4, little=True)
    is_plain = compression == 0
    if bits == 32 and compression == _BMP_BITFIELDS:
        is_plain = tf.reduce_all(tf.equal(data[54:66], _BGRX))
    is_supported = header_size >= 40 and is_plain and tf.reduce_any(tf.equal(bits, _BMP_BITS))
    words = "a BMP other than uncompressed with 8, 24 or 32 bits per pixel; save it as PNG"
    pixels = tf.image.decode_bmp(_checked(content, is_supported, words))

    if bits != 8:
        return pixels[..., :3]
    colors = _number(data, 46, 4, little=True)
    start = 14 + header_size
    end = start + 4 * tf.where(colors == 0, tf.constant(256, tf.int64), colors)
    palette = tf.reshape(data[start:end], [-1, 4])[:, 2::-1]
    return tf.gather(palette, tf.cast(pixels[..., 0], tf.int32))


def _decode_gif(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """The first frame, opaque: the flag of transparency in front of it is cleared."""
    length = tf.size(data, tf.int64)
    flags = _number(data, 10, 1)
    at = tf.constant(13, tf.int64)
    if flags >= 128:  # the size of the palette
        at += 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)

    # Extensions: "!", a kind, and blocks that begin with their length, which is 0 for the last one.
    opaque = content
    while _number(data, at, 1) == ord("!"):
        if _number(data, at + 1, 1) == 0xF9:
            before = tf.strings.substr(content, tf.constant(0, tf.int64), at + 3)
            opaque = tf.strings.join([before, b"\0", tf.strings.substr(content, at + 4, length)])
        at += 2
        while _number(data, at, 1) > 0:
            at += 1 + _number(data, at, 1)
        at += 1

    # The frame's left, top, width and height.
    is_whole = _number(data, at + 1, 4) == 0 and _number(data, at + 5, 4) == _number(data, 6, 4)
    opaque = _checked(opaque, is_whole, "a GIF whose first frame does not fill it; save it as PNG")
    return tf.io.decode_image(opaque, channels=3, expand_animations=False)


def _jpeg_orientation(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """From the segments in front of the pixels: 255, a kind, and in two bytes the number of bytes from there on."""
    exif = tf.constant(b"")
    xmp = tf.constant(b"")
    at = tf.constant(2, tf.int64)
    while _number(data, at, 1) == 0xFF and _number(data, at + 1, 1) != 0xDA:
        kind = _number(data, at + 1, 1)
        if kind == 0xFF:  # fills up
            at += 1
        else:
            size = _number(data, at + 2, 2)
            segment = tf.strings.substr(content, tf.minimum(at + 4, tf.size(data, tf.int64)), size - 2)
            if kind == 0xE1 and _begins(segment, _JPEG_EXIF):
                exif = tf.strings.join([exif, tf.strings.substr(segment, len(_JPEG_EXIF), 0xFFFF)])
            elif kind == 0xE1 and _begins(segment, _JPEG_XMP):
                xmp = segment
            at += 2 + size
    return _orientation(exif, xmp)


def _png_orientation(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """From all chunks: the length in four bytes, a kind in four, as many bytes as the length says, a checksum."""
    exif = tf.constant(b"")
    xmp = tf.constant(b"")
    as_text = tf.constant(b"")
    at = tf.constant(len(_PNG), tf.int64)
    while at + 12 <= tf.size(data, tf.int64):
        size = _number(data, at, 4)
        kind = tf.strings.substr(content, at + 4, 4)
        chunk = tf.strings.substr(content, at + 8, size)
        if kind == b"eXIf":
            exif = chunk
        elif _begins(chunk, _PNG_XMP):
            xmp = chunk
        elif _begins(chunk, _PNG_EXIF_AS_TEXT):
            as_text = chunk
        at += 12 + size
    words = "a PNG with EXIF data as text; save it without (magick OLD -auto-orient -strip NEW)"
    exif = _checked(exif, exif != b"" or as_text == b"", words)
    return _orientation(exif, xmp)


def _orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """EXIF's orientation, or XMP's where EXIF has none; without either, 0. Scalar int64."""
    data = tf.io.decode_raw(exif, tf.uint8)
    little = _number(data, 0, 1) == ord("I")
    at = _number(data, 4, 4, little) + 2
    end = at + 12 * _number(data, at - 2, 2, little)
    found = tf.constant(0, tf.int64)
    while at < tf.minimum(end, tf.size(data, tf.int64)):
        if _number(data, at, 2, little) == _EXIF_ORIENTATION:
            found = _number(data, at + 8, 2, little)
        at += 12
    if found == 0 and tf.strings.regex_full_match(xmp, _XMP_ORIENTATION):
        found = tf.strings.to_number(tf.strings.regex_replace(xmp, f"^{_XMP_ORIENTATION}$", r"\1"), tf.int64)
    return found


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The upright image, of pixels as they are stored."""
    if tf.reduce_any(tf.equal(orientation, _TRANSPOSED)):
        image = tf.transpose(image, [1, 0, 2])
    if tf.reduce_any(tf.equal(orientation, _MIRRORED)):
        image = image[:, ::-1]
    if tf.reduce_any(tf.equal(orientation, _UPSIDE_DOWN)):
        image = image[::-1]
    return image
