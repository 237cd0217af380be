"""What headers of image files say beyond what Pillow tells: of bits, of bands, and of a place on Earth."""

import re
from typing import Any

from PIL import Image, TiffImagePlugin

_PNG_BIT_DEPTH = 24  # offset of this byte in a PNG file
_TIFF_BITS = 258
_TIFF_SAMPLE_FORMAT = 339
_TIFF_FLOAT = 3
_TIFF_UNSIGNED = (1, 4)
_TIFF_PHOTOMETRIC = 262
_TIFF_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # samples that are colors, by photometric interpretation
_TIFF_SAMPLES = 277
_TIFF_EXTRA_SAMPLES = 338
_TIFF_ALPHA = (1, 2)
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
"""Pixel scale, tie points, transformation, directory of keys, and their numbers and texts (OGC GeoTIFF 1.1, 7.1)."""

Tags = dict[int, tuple[int, Any]]
"""Type (TIFF 6.0, section 2) and value of each tag, by its number."""


def other_bands(image: Image.Image) -> int:
    """The bands of a TIFF that are neither colors nor alpha; without the tag ExtraSamples, no band is alpha."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    samples = image.tag_v2.get(_TIFF_SAMPLES, 1)
    colors = _TIFF_COLORS.get(image.tag_v2.get(_TIFF_PHOTOMETRIC, 1), samples)
    extra = image.tag_v2.get(_TIFF_EXTRA_SAMPLES, ())
    return max(samples - colors - sum(kind in _TIFF_ALPHA for kind in extra), 0)


def has_associated_alpha(image: Image.Image) -> bool:
    """Whether a TIFF's colors are multiplied by its alpha (TIFF 6.0, ExtraSamples); Pillow divides them by it."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and 1 in image.tag_v2.get(_TIFF_EXTRA_SAMPLES, ())


def georeference(image: Image.Image) -> Tags:
    """The tags of `_GEOREFERENCE` that a TIFF has: type and value, by number."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return {}
    tags = image.tag_v2
    return {number: (tags.tagtype[number], tags[number]) for number in _GEOREFERENCE if number in tags}


def more_than_8_bits(image: Image.Image, content: bytes) -> str | None:
    """The bits of a channel in words, or None if 8 or fewer; Pillow itself would silently drop or clip more."""
    bits = 8
    if image.format == "PNG":
        bits = content[_PNG_BIT_DEPTH]
    elif image.format == "PPM":
        bits = _ppm_maximum(content).bit_length()
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(_TIFF_BITS, (1,)))
        kinds = image.tag_v2.get(_TIFF_SAMPLE_FORMAT, (1,))
        if not set(kinds) <= set(_TIFF_UNSIGNED):
            return f"{bits}-bit {'floating-point' if _TIFF_FLOAT in kinds else 'signed'} numbers"
    return f"{bits} bits" if bits > 8 else None


def _ppm_maximum(content: bytes) -> int:
    """The value of white in a PPM or PGM file, the fourth word of its header; 1 for a bitmap, which lacks it."""
    words = re.sub(rb"#[^\n]*", b"", content[:4096]).split(maxsplit=4)
    return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 1
