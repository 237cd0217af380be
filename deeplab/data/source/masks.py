"""Masks: reads their pixels according to the class table, and names what is wrong with them.

A mask is a PNG, or a BMP or TIFF, whose pixels are indices (of a palette, grayscale of 8 or more bits, or one bit) or
colors (of a palette, RGB, RGBA). A GIF is read by its colors only, since programs renumber its indices. JPEG and WebP
smear the edges, so masks in these formats are refused.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from deeplab.data.source import headers, images
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.palette_checks import Palette, hex_of
from deeplab.errors import DataError
from deeplab.labels import VOID_LABEL

_NO_CLASS = -1
_SHOWN = 3
_PNG_BIT_DEPTH = 24  # offset of this byte in a PNG: signature, length, "IHDR", width, height
_ENCODINGS = ("PNG", "BMP", "DIB", "GIF", "TIFF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Whole numbers of 16 or 32 bits: each value is an index, so that nothing is lost if all are at most 255."""


@dataclass(frozen=True)
class Mask:
    """The labels of a mask, and the palette entries that it uses.

    Attributes:
        labels: uint8 [height, width], class indices, and 255 for void.
        palette: empty if the labels are not palette indices.
    """

    labels: np.ndarray
    palette: Palette = ()


@dataclass(frozen=True)
class _Pixels:
    """The content of a mask file.

    Attributes:
        stored: indices or gray values, uint8 [height, width], or RGB [height, width, 3].
        palette: 0xrrggbb of each index, uint32 [256]; None without a palette.
        is_one_bit: whether `stored` holds 0 for black and 1 for white.
        bits: of a palette index in the file; 8 unless it is a PNG.
        is_renumbered: whether programs change `stored` when they save the file, and keep only the colors.
    """

    stored: np.ndarray
    palette: np.ndarray | None = None
    is_one_bit: bool = False
    bits: int = 8
    is_renumbered: bool = False

    @property
    def has_colors(self) -> bool:
        return self.stored.ndim == 3

    def colors(self) -> np.ndarray:
        """0xrrggbb of each pixel, uint32 [height, width]."""
        if self.has_colors:
            return _codes(self.stored)
        if self.palette is not None:
            return self.palette[self.stored]
        return self.stored * np.uint32(0xFFFFFF if self.is_one_bit else 0x010101)


def read_mask(path: Path, classes: ClassTable, max_pixels: int = images.MAX_PIXELS) -> Mask:
    """Reads a mask according to the class table.

    Raises:
        DataError: missing, unreadable, more than `max_pixels`, an unsupported kind of image, or a value or color
            without a class.
    """
    content = images.read_bytes(path, images.max_bytes(max_pixels))
    return read_mask_content(str(path), content, classes, max_pixels)


def read_mask_content(path: str, content: bytes, classes: ClassTable, max_pixels: int = images.MAX_PIXELS) -> Mask:
    """As `read_mask`, of the content of a file; `path` is its name in messages."""
    pixels = _read_pixels(path, content, max_pixels)
    if classes.colors is not None:
        return Mask(_by_colors(path, pixels.colors(), classes))
    if pixels.is_renumbered:
        raise DataError(
            f"{path}: a GIF, whose indices programs renumber when they save it, so that they do not identify classes; "
            "save masks as PNG, or give --class_names a table of colours with one line per class: "
            f"{_color_lines(pixels)}"
        )
    if pixels.has_colors and classes.is_plain:
        raise DataError(
            f"{path}: contains colours, but the classes are plain names; give --class_names a table with one line per "
            f"class: {_color_lines(pixels)}"
        )
    values = _gray(path, pixels.stored) if pixels.has_colors else pixels.stored
    known = classes.values or {}
    if pixels.is_one_bit and 1 not in known and 255 in known:
        values = values * np.uint8(255)
    labels = _by_values(path, values, classes, pixels.bits)
    return Mask(labels, () if pixels.palette is None else _used(values, pixels.palette))


def _read_pixels(path: str, content: bytes, max_pixels: int) -> _Pixels:
    with images.opened(path, content) as image:
        images.check_pixels(path, image.size, max_pixels)
        if image.format not in _ENCODINGS:
            raise DataError(
                f"{path}: a {image.format}, which changes values along edges; save masks as PNG (or BMP, TIFF)"
            )

        # The kinds of pixels that can hold indices or colours.
        mode = image.mode
        is_png = image.format == "PNG"
        bits = None if mode in _WIDE_MODES else headers.more_than_8_bits(image, content)
        if is_png and mode == "L" and content[_PNG_BIT_DEPTH] < 8:
            # Pillow stretches grayscale of fewer bits to 0..255: index 1 of 4 bits would be 17.
            bits = f"{content[_PNG_BIT_DEPTH]} bits"
        if bits or mode not in (*_MODES, *_WIDE_MODES):
            raise DataError(
                f"{path}: a {image.format} of mode {mode}, {bits or 'which is not supported'}; masks hold indices "
                "(palette or greyscale) or colours, 8 bits per channel"
            )
        is_gif = image.format == "GIF"
        if is_png:
            image.verify()  # the checksums, which decoding ignores

    # The pixels, from the start: a PNG that was verified cannot be decoded.
    with images.opened(path, content) as image:
        if mode in ("RGB", "RGBA"):
            return _Pixels(np.asarray(image.convert("RGB")))
        values = np.asarray(image)
        if mode == "1":
            return _Pixels(values.astype(np.uint8), is_one_bit=True)
        if mode in _WIDE_MODES:
            return _Pixels(_narrowed(path, values))
        if mode in ("LA", "PA"):
            values = values[..., 0]
        if mode in ("L", "LA"):
            return _Pixels(values, is_renumbered=is_gif)
        palette = np.zeros(768, np.uint8)
        stored = image.getpalette("RGB") or []
        palette[: len(stored)] = stored
        bits_of_index = content[_PNG_BIT_DEPTH] if is_png else 8
        return _Pixels(values, _codes(palette.reshape(256, 3)), bits=bits_of_index, is_renumbered=is_gif)


def _narrowed(path: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers of more than 8 bits as uint8; raises DataError if one is no index."""
    foreign = values[(values < 0) | (values > VOID_LABEL)]
    if foreign.size:
        shown = ", ".join(map(str, _most_frequent(foreign)))
        raise DataError(
            f"{path}: value{'s' * (len(np.unique(foreign)) > 1)} {shown} in a mask of more than 8 bits; "
            f"masks hold class indices, or the values of a class table, from 0 to {VOID_LABEL}"
        )
    return values.astype(np.uint8)


def _by_values(path: str, values: np.ndarray, classes: ClassTable, bits: int) -> np.ndarray:
    known = classes.values or {}
    table = np.full(256, _NO_CLASS if classes.rest is None else classes.rest, np.int16)
    table[list(known)] = list(known.values())
    labels = table[values]
    if (labels != _NO_CLASS).all():
        return labels.astype(np.uint8)

    # What to do about a value without a class depends on how it came about.
    foreign = _most_frequent(values[labels == _NO_CLASS])
    if bits < 8 and foreign == [(1 << bits) - 1]:
        raise DataError(
            f"{path}: value {foreign[0]}, the largest of the {bits} bits that its palette index has; its writer may "
            f"have cut {VOID_LABEL}, void, to these bits. Write masks with a palette of 256 colours, or, if "
            f"{foreign[0]} is void in all of them, give --class_names a table with the line `void: {foreign[0]}`"
        )
    if classes.is_plain:
        count = len(classes.names)
        advice = classes.if_first_is_other() if foreign == [count] else ""
        raise DataError(
            f"{path}: label {foreign[0]}, but there are {count} classes (0..{count - 1}) and {VOID_LABEL} for void; "
            f"if values are not indices, give --class_names a table with lines such as `NAME: {foreign[0]}`{advice}"
        )
    raise DataError(
        f"{path}: value{'s' * (len(foreign) > 1)} {', '.join(map(str, foreign))} without a class in {classes.source}; "
        "add them, or add `void: *` to ignore all values that are not listed"
    )


def _by_colors(path: str, colors: np.ndarray, classes: ClassTable) -> np.ndarray:
    labels = _color_table(tuple((classes.colors or {}).items()), classes.rest)[colors]
    if (labels != _NO_CLASS).all():
        return labels.astype(np.uint8)
    foreign = colors[labels == _NO_CLASS]
    count = len(np.unique(foreign))
    names = ", ".join(map(hex_of, _most_frequent(foreign))) + (
        f" and {count - _SHOWN} others" if count > _SHOWN else ""
    )
    pixels = f"{foreign.size} pixel{'s' * (foreign.size > 1)}{', of smoothed edges?' * (count > _SHOWN)}"
    raise DataError(
        f"{path}: colour{'s' * (count > 1)} {names} ({pixels}) without a class in {classes.source}; "
        "add them, or add `void: *` to ignore all colours that are not listed"
    )


@lru_cache(maxsize=1)
def _color_table(colors: tuple[tuple[tuple[int, int, int], int], ...], rest: int | None) -> np.ndarray:
    """The label of each color 0xrrggbb: int16 [2 ** 24], 32 MB."""
    table = np.full(1 << 24, _NO_CLASS if rest is None else rest, np.int16)
    for (red, green, blue), label in colors:
        table[red << 16 | green << 8 | blue] = label
    return table


def _gray(path: str, rgb: np.ndarray) -> np.ndarray:
    """The values of a grayscale mask that was saved as RGB."""
    values = rgb[..., 0]
    if (rgb != values[..., None]).any():
        raise DataError(
            f"{path}: contains colours, but the class table has values; write it with colours, `NAME: #ff0000`"
        )
    return values


def _used(values: np.ndarray, palette: np.ndarray) -> Palette:
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return tuple((int(index), int(palette[index])) for index in used)


def _codes(rgb: np.ndarray) -> np.ndarray:
    """RGB (uint8 [..., 3]) as 0xrrggbb (uint32 [...])."""
    codes = rgb[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= rgb[..., channel]
    return codes


def _color_lines(pixels: _Pixels) -> str:
    """Lines of a class table for the most frequent colors."""
    return ", ".join(f"`NAME: {hex_of(color)}`" for color in _most_frequent(pixels.colors()))


def _most_frequent(values: np.ndarray) -> list[int]:
    found, counts = np.unique(values, return_counts=True)
    return found[np.argsort(-counts, kind="stable")][:_SHOWN].tolist()
