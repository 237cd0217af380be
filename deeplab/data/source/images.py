"""The single rule for images: which files are read, and how their pixels are decoded.

Preparation, the converters, predict and the Python API read images only through this module. A file's content decides,
not its ending: JPEG, PNG, BMP, WebP, TIFF (the first page), GIF (the first frame) and PPM. All kinds of pixels
(grayscale, a palette, alpha, CMYK) become 8-bit RGB; alpha is dropped, and so are further bands of a TIFF, which is
said. Images of more than 8 bits per channel are refused: it is unknown which of their values is white, and clipped
images would be white all over.
"""

import errno
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab.data.source import headers
from deeplab.errors import DataError
from deeplab.files import open_regular, read_regular

logger = logging.getLogger("deeplab")

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jfif")
"""Endings of image files, in lower or upper case."""

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Largest image or mask: Pillow's safe limit, 89 million. A header of a few bytes can claim any size."""

MAX_BYTES = 3 * MAX_PIXELS + 2**20
"""Largest file: uncompressed RGB of `MAX_PIXELS`, and its metadata."""

MOST_PIXELS = 2**30
"""What a flag can raise the limit to."""

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM")
_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: Pillow's name for a JPEG followed by further pictures, as some cameras write
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_EXIF_ORIENTATION = 274
_PNG_COLOR_TYPE = 25  # offset of this byte in a PNG file
_PNG_RGB = 2

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright."""

_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> the operation that undoes `_TURNS`."""


def read_image(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image's pixels: uint8 RGB [height, width, 3], turned according to its EXIF orientation.

    `source` is a file's path or a binary stream such as `sys.stdin.buffer`. Bands beside the colors are left out,
    with a warning.

    Raises:
        DataError: missing, unreadable, more than `max_pixels` or 8 bits per channel; the message names the file.
    """
    file = ImageFile(source, max_pixels)
    check_pixels(file.name, file.size, max_pixels, "max_pixels=")
    if file.other_bands:
        logger.warning("%s: left out: %d band(s) beside the colours", file.name, file.other_bands)
    return file.pixels(turned=True)


def stored_form(path: Path) -> tuple[bytes, int, int]:
    """(content, height, width) of an image as stored in a shard, with the pixels of `read_image`.

    A JPEG or an 8-bit RGB PNG that EXIF does not turn keeps the file's own content; any other image becomes an 8-bit
    RGB PNG, so that nothing is lost.

    Raises:
        DataError: as `read_image`, or an image of more than `MAX_PIXELS`.
    """
    return ImageFile(path).stored_form(turned=True)


def warn_of_other_bands(other_bands: Mapping[Path, int], num_images: int) -> None:
    """One line for all images of a data set with bands beside the colors: their number of bands, by path."""
    if other_bands:
        path, number = next(iter(other_bands.items()))
        logger.warning(
            "left out: bands beside the colours in %s of %s images (%d in %s); images are read as RGB",
            f"{len(other_bands):,}",
            f"{num_images:,}",
            number,
            path,
        )


class ImageFile:
    """An image file: its header, and on demand its pixels.

    Attributes:
        name: for messages.
        orientation: EXIF's, 1 (upright) to 8.
        size: (width, height) of the pixels as stored, before any turn.
        other_bands: number of a TIFF's bands that are neither colors nor alpha, such as near infrared; left out.
        georeference: a TIFF's tags that say where on Earth its pixels are, with their types; empty if EXIF turns it.
        is_place_lost: whether it has such tags, but EXIF turns it.
    """

    def __init__(self, source: Path | BinaryIO, max_pixels: int = MAX_PIXELS, flag: str = "") -> None:
        """Reads the file and its header; `max_pixels`, set by `flag`, limits how long it may be, and `stored_form`.

        Raises:
            DataError: missing, an unsupported format, or more than 8 bits per channel.
        """
        self.name = str(source if isinstance(source, Path) else getattr(source, "name", "image"))
        self._max_pixels = max_pixels
        most = max_bytes(max_pixels)
        self._content = read_bytes(source, most, flag) if isinstance(source, Path) else source.read(most)
        with opened(self.name, self._content) as image:
            self._format = image.format or ""
            if bits := headers.more_than_8_bits(image, self._content):
                raise DataError(
                    f"{self.name}: {bits} per channel, but only 8-bit images are supported; rescale all images by the "
                    "same factor to 0..255 (ImageMagick: magick OLD -level 0,WHITE -depth 8 NEW.png, where WHITE is "
                    "the largest value in any of them)"
                )
            if image.mode not in _EIGHT_BIT_MODES:
                raise DataError(f"{self.name}: pixel mode {image.mode} is not supported; save it as RGB")
            if headers.has_associated_alpha(image):
                raise DataError(
                    f"{self.name}: its colours are multiplied by its alpha (ExtraSamples 1); save it as RGB"
                )
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            self.orientation = orientation if orientation in _TURNS else 1
            width, height = image.size
            # Pillow itself turns the pixels of a TIFF, and thus its size.
            swapped = self._format == "TIFF" and self.orientation >= 5
            self.size = (height, width) if swapped else (width, height)
            self.other_bands = headers.other_bands(image)
            self.georeference = _georeference(image)
            self.is_place_lost = bool(headers.georeference(image)) and not self.georeference

    def pixels(self, turned: bool) -> np.ndarray:
        """uint8 RGB [height, width, 3], `turned` according to EXIF or as stored.

        Raises:
            DataError: damaged.
        """
        if self._format == "PNG":
            with opened(self.name, self._content) as image:
                image.verify()  # the checksums, which decoding ignores
        with opened(self.name, self._content) as image:
            is_upright = self.orientation == 1
            image.load()
            image.info.pop("transparency", None)  # otherwise Pillow warns that it is dropped
            if self._format == "TIFF":
                turn = None if turned or is_upright else _BACK[self.orientation]
            else:
                turn = _TURNS[self.orientation] if turned and not is_upright else None
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            return _as_array(rgb if turn is None else rgb.transpose(turn))

    def stored_form(self, turned: bool) -> tuple[bytes, int, int]:
        """(content, height, width) as stored in a shard; see the function of this name.

        Raises:
            DataError: damaged, if it is decoded here (a JPEG is not), or more than `max_pixels`.
        """
        check_pixels(self.name, self.size, self._max_pixels)
        width, height = self.size
        is_stored_so = not turned or self.orientation == 1
        if self._format in _JPEG_FORMATS and is_stored_so:
            return self._content, height, width
        pixels = self.pixels(turned)
        is_rgb_png = self._format == "PNG" and self._content[_PNG_COLOR_TYPE] == _PNG_RGB
        content = self._content if is_rgb_png and is_stored_so else as_png(pixels)
        return content, pixels.shape[0], pixels.shape[1]


def check_pixels(name: str, size: tuple[int, int], max_pixels: int = MAX_PIXELS, limit: str = "") -> None:
    """Raises DataError for a picture of more pixels; `limit` says what set `max_pixels`. Call it before decoding."""
    width, height = size
    if width * height > max_pixels:
        raise DataError(f"{name}: {width}x{height} pixels, more than {limit}{max_pixels:,}")


def size_in_header(path: Path) -> tuple[int, int]:
    """(width, height) of an image's pixels, of which none are read.

    Raises:
        DataError: missing, unreadable, no regular file, or an unsupported format.
    """
    with _named_errors(path), open_regular(path) as file, opened(str(path), file) as image:
        return image.size


def is_georeferenced(path: Path) -> bool:
    """Whether `ImageFile.georeference` of this file has tags; DataError as for `size_in_header`."""
    with _named_errors(path), open_regular(path) as file, opened(str(path), file) as image:
        return bool(_georeference(image))


def _georeference(image: Image.Image) -> headers.Tags:
    return headers.georeference(image) if image.getexif().get(_EXIF_ORIENTATION, 1) not in _TURNS else {}


@contextmanager
def opened(name: str, source: bytes | Path | BinaryIO, formats: tuple[str, ...] = _FORMATS) -> Iterator[Image.Image]:
    """Opens the image in a file's content, or in a file, of which only the header is read until its pixels are needed.

    Any error of Pillow, including during decoding, becomes a DataError.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            yield image
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        some = "in a supported format (JPEG, PNG, BMP, WebP, TIFF, GIF, PPM)"
        what = some if formats == _FORMATS else " or ".join(formats)
        if "TIFF" in formats and _is_tiff(source):
            what = "a TIFF of bands or planes that Pillow reads (save it as 8-bit RGB, its samples pixel by pixel)"
        raise DataError(f"{name}: cannot be read as an image: not {what}, or truncated") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        words = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(f"{name}: cannot be read as an image: {words}") from error


def _is_tiff(source: bytes | Path | BinaryIO) -> bool:
    if isinstance(source, Path):
        return False  # no caller opens TIFFs by path
    start = io.BytesIO(source) if isinstance(source, bytes) else source
    start.seek(0)
    return start.read(4) in (b"II*\0", b"MM\0*")


def read_bytes(path: Path, most: int = MAX_BYTES, flag: str = "") -> bytes:
    """A file's content; `flag` raises the limit `most`, if there is one that does.

    Raises:
        DataError: missing, unreadable, no regular file, or more than `most` bytes.
    """
    with _named_errors(path, flag):
        return read_regular(path, most)


@contextmanager
def _named_errors(path: Path, flag: str = "") -> Iterator[None]:
    """Turns an OSError about a file into a DataError; `flag` raises the limit of its size."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        advice = f"; {flag} raises this limit" if flag and error.errno == errno.EFBIG else ""
        raise DataError(f"{path}: cannot be read: {error.strerror}{advice}") from error


def max_bytes(max_pixels: int) -> int:
    """The largest file of an image that may have so many pixels."""
    return MAX_BYTES + 3 * max(max_pixels - MAX_PIXELS, 0)


def allow_pixels(max_pixels: int) -> None:
    """Lets Pillow open images of so many pixels in this process; for programs whose flag says so.

    From here on it warns of none: `check_pixels` refuses what is larger, in one line.
    """
    Image.MAX_IMAGE_PIXELS = max(max_pixels, MAX_PIXELS)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _as_array(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB image, by bands of rows: Pillow would hold all of them twice more on their way."""
    array = np.empty((image.height, image.width, 3), np.uint8)
    height = max(2**20 // image.width, 1)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        array[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return array


def as_png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 [height, width, 3] or [height, width], as the content of a PNG file."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()
