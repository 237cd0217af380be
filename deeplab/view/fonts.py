"""A font that has the letters of a text: Pillow's own, which has those of English, or one of the system's."""

import functools
import logging
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

logger = logging.getLogger("deeplab")

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.fonts"),
    Path("~/.local/share/fonts"),
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
    Path("~/Library/Fonts"),
    Path("C:/Windows/Fonts"),
)
"""Where systems keep fonts: Linux, macOS, Windows."""

_ENDINGS = (".ttf", ".ttc", ".otf")
_NO_CHARACTER = "\U0010ffff"  # of no font, so that it is drawn as a box

_missing: list[str] = []
"""Texts without a font; only the first one is worth a warning."""


@functools.cache
def font_for(text: str, size: int) -> Font:
    """The first font that has all characters of `text`; if none has, Pillow's own, which draws boxes, and a warning.

    `size` is in pixels.
    """
    own = ImageFont.load_default(size)
    if text.isascii() or not isinstance(own, ImageFont.FreeTypeFont) or _has_all(own, text):
        return own
    for path in _font_files():
        try:
            font = ImageFont.truetype(path, size)
        except OSError:  # damaged, or of a kind that FreeType does not read
            continue
        if _has_all(font, text):
            return font
    _missing.append(text)
    if len(_missing) == 1:
        logger.warning(
            "%s: no font of this system has all its letters, so pictures show boxes; install one, such as Noto's",
            text,
        )
    return own


def _has_all(font: ImageFont.FreeTypeFont, text: str) -> bool:
    box = bytes(font.getmask(_NO_CHARACTER))
    return all(bytes(font.getmask(character)) != box for character in set(text) if not character.isspace())


@functools.cache
def _font_files() -> tuple[Path, ...]:
    files = [path for folder in FOLDERS for path in folder.expanduser().rglob("*")]
    # Names without "-Bold" and the like are shorter, and stand first.
    return tuple(sorted((path for path in files if path.suffix.lower() in _ENDINGS), key=lambda path: len(path.name)))
