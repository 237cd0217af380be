"""The decoder inside an export: the pixels of `read_image`, or an error that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deeplab.commands.export.encoded import decode
from deeplab.commands.export.saved_model import decode_all
from deeplab.data.source.images import read_image
from deeplab.errors import DataError

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((61, 47))
GRAY = RGB.convert("L")
PALETTE = RGB.quantize(50)
ALPHA = Image.merge("RGBA", [*RGB.split(), GRAY])
OTHER = PALETTE.transpose(Image.Transpose.ROTATE_180)
EXIF_TURNED = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # orientation 6, big-endian
EXIF_UPRIGHT = EXIF_TURNED.replace(b"\6", b"\1")


def _file(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _noise(length):
    return np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(color_type, bits, row, *chunks):
    """8x4 pixels, with `row` bytes in each row."""
    header = struct.pack(">IIBBBBB", 8, 4, bits, color_type, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + _noise(row) for _ in range(4)))
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bmp(bits, *, palette=b"", masks=b"", upside_down=False, compression=0, header=40):
    """8x4 pixels; the palette has four bytes for each color."""
    pixels = _noise((8 * bits + 31) // 32 * 4 * 4)
    start = 14 + header + len(masks) + len(palette)
    sizes = struct.pack("<IiiHHI", header, 8, -4 if upside_down else 4, 1, bits, compression)
    rest = struct.pack("<IiiII", len(pixels), 0, 0, len(palette) // 4, 0).ljust(header - 20, b"\0")
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + sizes + rest + masks + palette + pixels


def _small_frame():
    """A GIF of 61x47 pixels whose first frame covers 30x20 of them."""
    content = bytearray(_file(PALETTE.crop((0, 0, 30, 20)), "GIF"))
    content[6:10] = struct.pack("<HH", 61, 47)
    return bytes(content)


READ = {
    "jpeg": _file(RGB, "JPEG"),
    "jpeg of full colors": _file(RGB, "JPEG", subsampling=0),
    "jpeg in RGB": _file(RGB, "JPEG", keep_rgb=True),
    "progressive jpeg": _file(RGB, "JPEG", progressive=True),
    "grey jpeg": _file(GRAY, "JPEG"),
    "cmyk jpeg": _file(RGB.convert("CMYK"), "JPEG"),
    "jpeg and more": _file(RGB, "JPEG") + b"more",
    "png": _file(RGB, "PNG"),
    "grey png": _file(GRAY, "PNG"),
    "grey and alpha png": _file(Image.merge("LA", [GRAY, GRAY]), "PNG"),
    "alpha png": _file(ALPHA, "PNG"),
    "palette png": _file(PALETTE, "PNG"),
    "palette png with key": _file(PALETTE, "PNG", transparency=3),
    "png with key": _file(RGB, "PNG", transparency=(1, 2, 3)),
    "one bit png": _file(RGB.convert("1"), "PNG"),
    "one bit palette png": _file(RGB.quantize(2), "PNG"),
    "two bit png": _png(0, 2, 2),
    "four bit png": _png(0, 4, 4),
    "four bit palette png": _file(RGB.quantize(12), "PNG"),
    "png with gamma": _png(2, 8, 24, _chunk(b"gAMA", struct.pack(">I", 100000))),
    "bmp": _file(RGB, "BMP"),
    "bmp upside down": _bmp(24, upside_down=True),
    "bmp with a long header": _bmp(24, header=124),
    "grey bmp": _file(GRAY, "BMP"),
    "palette bmp": _file(PALETTE, "BMP"),
    "palette bmp of all colors": _bmp(8, palette=_noise(1024)),
    "alpha bmp": _file(ALPHA, "BMP"),
    "32 bit bmp with masks": _bmp(32, compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)),
    "gif": _file(PALETTE, "GIF"),
    "grey gif": _file(GRAY, "GIF"),
    "gif with key": _file(PALETTE, "GIF", transparency=2),
    "gif of frames": _file(PALETTE, "GIF", save_all=True, append_images=[OTHER], transparency=2, loop=0, disposal=2),
    "gif with a comment": _file(RGB.quantize(4), "GIF", comment=b"long" * 200, transparency=1),
}
TURNED = {
    "png": _png(2, 8, 24, _chunk(b"eXIf", EXIF_TURNED)),
    "jpeg": _file(RGB, "JPEG", exif=b"Exif\0\0" + EXIF_TURNED),
    "jpeg that fills up": _file(RGB, "JPEG", exif=b"Exif\0\0" + EXIF_TURNED).replace(b"\xff\xe1", b"\xff\xff\xff\xe1"),
    "jpeg with xmp": _file(RGB, "JPEG", xmp='<a b="é" tiff:Orientation="6"/> tiff:Orientation="1"'.encode()),
    "png with xmp": _png(2, 8, 24, _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6<")),
}
NOT_TURNED = {
    "jpeg whose exif is cut short": _file(RGB, "JPEG", exif=b"Exif\0\0" + EXIF_TURNED[:12]),
    "jpeg whose exif begins outside": _file(RGB, "JPEG", exif=b"Exif\0\0MM\0*\xff\0\0\x08\0\1"),
    "jpeg whose exif counts": _file(RGB, "JPEG", exif=b"Exif\0\0" + EXIF_UPRIGHT, xmp=b'tiff:Orientation="6"'),
}
TEXT = PngInfo()
TEXT.add_text("Raw profile type exif", f"\nexif\n{len(EXIF_TURNED):8}\n{EXIF_TURNED.hex()}\n", zip=True)
REFUSED_BY_BOTH = {
    "16 bit png": (_png(0, 16, 16), "16 bits per channel, but only 8-bit images are supported; rescale"),
    "16 bit RGB png": (_png(2, 16, 48), "16 bits per channel, but only 8-bit images are supported; rescale"),
    "16 bit alpha png": (_png(6, 16, 64), "16 bits per channel, but only 8-bit images are supported; rescale"),
    "empty": (b"", "not a JPEG, PNG, BMP or GIF file"),
    "words": (b"no picture at all", "not a JPEG, PNG, BMP or GIF file"),
    "png cut short": (READ["png"][:900], "Invalid PNG data"),
    "beginning of a png": (READ["png"][:20], "Invalid PNG"),
    "png with a changed bit": (READ["png"][:900] + b"?" + READ["png"][901:], "Invalid PNG data"),
    "jpeg cut short": (READ["jpeg"][:900], "Invalid JPEG data"),
    "bmp cut short": (READ["bmp"][:900], "Input size should match"),
    "beginning of a bmp": (b"BM", "a BMP other than"),
    "beginning of a gif": (b"GIF89a", "Invalid GIF data"),
    "gif cut short": (READ["gif"][:900], "Invalid GIF data"),
}
REFUSED = {
    "webp": (_file(RGB, "WEBP"), "not a JPEG, PNG, BMP or GIF file"),
    "tiff": (_file(RGB, "TIFF"), "not a JPEG, PNG, BMP or GIF file"),
    "one bit bmp": (_file(RGB.convert("1"), "BMP"), "a BMP other than uncompressed with 8, 24 or 32 bits"),
    "four bit bmp": (_bmp(4, palette=_noise(64)), "a BMP other than uncompressed with 8, 24 or 32 bits"),
    "16 bit bmp": (_bmp(16), "a BMP other than uncompressed with 8, 24 or 32 bits"),
    "bmp of other masks": (
        _bmp(32, compression=3, masks=struct.pack("<III", 0xFF000000, 0xFF0000, 0xFF00)),
        "a BMP other than uncompressed with 8, 24 or 32 bits",
    ),
    "gif whose frame is small": (_small_frame(), "a GIF whose first frame does not fill it"),
    "png with exif as text": (_file(RGB, "PNG", pnginfo=TEXT), "a PNG with EXIF data as text"),
}


@pytest.fixture(scope="module")
def decoded():
    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("name", READ)
def test_pixels_are_those_of_the_programs(decoded, name):
    np.testing.assert_array_equal(decoded(READ[name]), read_image(io.BytesIO(READ[name])))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_turns(decoded, kind, orientation):
    exif = Image.Exif()
    exif[271] = "a camera"
    exif[274] = orientation
    content = _file(RGB, kind, exif=exif)
    np.testing.assert_array_equal(decoded(content), read_image(io.BytesIO(content)))


@pytest.mark.parametrize("name", TURNED)
def test_every_place_of_an_orientation_is_found(decoded, name):
    upright = read_image(io.BytesIO(TURNED[name]))
    stored = np.array(Image.open(io.BytesIO(TURNED[name])))
    assert upright.shape[:2] == stored.shape[1::-1]
    np.testing.assert_array_equal(decoded(TURNED[name]), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", NOT_TURNED)
def test_exif_without_orientation_turns_nothing(decoded, name):
    stored = np.array(Image.open(io.BytesIO(NOT_TURNED[name])))
    np.testing.assert_array_equal(decoded(NOT_TURNED[name]), stored)
    np.testing.assert_array_equal(read_image(io.BytesIO(NOT_TURNED[name])), stored)


@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_what_the_programs_refuse_is_refused(decoded, name):
    content, words = REFUSED_BY_BOTH[name]
    with pytest.raises(DataError):
        read_image(io.BytesIO(content))
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        decoded(content)


@pytest.mark.parametrize("name", REFUSED)
def test_what_tensorflow_reads_otherwise_is_refused(decoded, name):
    content, words = REFUSED[name]
    assert read_image(io.BytesIO(content)).shape[-1] == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        decoded(content)


def test_images_of_one_size_are_a_batch_and_others_are_refused():
    batch = tf.function(decode_all, input_signature=[tf.TensorSpec([None], tf.string)])
    alike = [READ["jpeg"], READ["grey png"], READ["gif"]]
    np.testing.assert_array_equal(batch(tf.constant(alike)), [read_image(io.BytesIO(file)) for file in alike])
    other = TURNED["jpeg"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"images of several sizes.* \[47 61 3\] \[61 47 3\]"):
        batch(tf.constant([*alike, other]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image in this request"):
        batch(tf.constant([], tf.string))
