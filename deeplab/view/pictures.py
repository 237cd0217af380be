"""Pictures of masks: palette coloring, overlays, rows side by side, error maps, legends, confusion matrices."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, TiffImagePlugin

from deeplab.files import atomic_write
from deeplab.labels import VOID_LABEL, foreground, has_background, palette
from deeplab.view.colors import class_colors
from deeplab.view.fonts import font_for

OPACITY = 0.6
"""Of the colors in an overlay, unless another is asked for."""

_GAP = 4  # pixels of white between adjacent pictures
_TEXT_SIZE = 13  # pixels
_LINE = 19  # pixels
MISSED = (213, 94, 0)
FALSE_ALARM = (86, 180, 233)
WRONG_CLASS = (240, 228, 66)
"""Of errors: three of the colors that Okabe and Ito chose for color-blind people (jfly.uni-koeln.de/color)."""

KINDS = {MISSED: "missed", FALSE_ALARM: "false alarm", WRONG_CLASS: "wrong class"}
_PALE = [128 + gray // 2 for gray in range(256)]

_HEAT = ((0.0, (0, 0, 0)), (0.35, (150, 10, 70)), (0.7, (245, 140, 20)), (1.0, (255, 255, 230)))
_MATRIX_BLUE = np.array((8, 48, 107))
_NUMBERED_CLASSES = 30
"""Up to this many classes the cells of a confusion matrix are large enough for numbers."""


def color_mask(mask: np.ndarray) -> Image.Image:
    """uint8 class indices [height, width] -> a palettized image: shows VOC colors, reads back as indices."""
    return _palettized(mask, palette())


def _palettized(indices: np.ndarray, colors: np.ndarray) -> Image.Image:
    """uint8 indices [height, width] in colors (uint8 RGB [256, 3]), which the image keeps apart."""
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    return image


def colored(mask: np.ndarray) -> Image.Image:
    """uint8 class indices [height, width] -> RGB, for programs without palette support."""
    return color_mask(mask).convert("RGB")


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    shown: Collection[int] | None = None,
    opacity: float = OPACITY,
) -> Image.Image:
    """The colors of a mask's `shown` indices over an image, which stays clear elsewhere; by default, the foreground.

    image: uint8 RGB [height, width, 3]; mask: uint8 [height, width]. `opacity`, of the colors, is in [0, 1]; that of a
    thin contour, the outermost pixels of each region, is twice as large.
    """
    is_shown = np.isin(np.arange(256), [*(foreground(class_names) if shown is None else shown)])
    colors = class_colors(class_names)
    is_contour = _is_contour(mask)
    drawn = np.empty_like(image)
    for rows in _bands(*mask.shape):
        opacities = np.where(is_contour[rows], min(2 * opacity, 1.0), opacity) * is_shown[mask[rows]]
        mixed = image[rows] + opacities[..., np.newaxis] * (colors[mask[rows]] - image[rows].astype(float))
        drawn[rows] = np.round(mixed)
    return Image.fromarray(drawn)


def _is_contour(mask: np.ndarray) -> np.ndarray:
    """Where one of the four neighbors has another index: bool [height, width]."""
    differs = np.zeros(mask.shape, bool)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        step = mask[before] != mask[after]
        differs[before] |= step
        differs[after] |= step
    return differs


def heat_map(probabilities: np.ndarray) -> Image.Image:
    """Probabilities, float [height, width] in [0, 1], in colors from black (0) by red and orange to white (1)."""
    stops = [stop for stop, _ in _HEAT]
    channels = [np.interp(probabilities, stops, [color[channel] for _, color in _HEAT]) for channel in range(3)]
    return Image.fromarray(np.round(np.stack(channels, -1)).astype(np.uint8))


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """The image in pale gray, with errors in the color of their kind and void white. Masks: uint8 [height, width].

    An object that is predicted as background is missed, and the reverse is a false alarm. Without a background, every
    error is of a wrong class. The image is palettized: indices from 128 on are grays, those below are of `KINDS`.
    """
    drawn = np.array(Image.fromarray(image).convert("L").point(_PALE))
    wrong = truth != prediction
    missed, false_alarm, wrong_class = range(len(KINDS))
    np.putmask(drawn, wrong, wrong_class)
    if has_background(class_names):
        np.putmask(drawn, wrong & (prediction == 0), missed)
        np.putmask(drawn, wrong & (truth == 0), false_alarm)
    np.putmask(drawn, truth == VOID_LABEL, 255)
    colors = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, 1)
    colors[: len(KINDS)] = [*KINDS]
    return _palettized(drawn, colors)


def panel(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    largest_side: int = 320,
    opacity: float = 1.0,
    note: str = "",
) -> Image.Image:
    """Image | truth | prediction | error map with headings and a legend; void is white.

    image: uint8 RGB [height, width, 3]; masks: uint8 [height, width]. All four are shrunk to `largest_side`. With
    an `opacity` below 1, masks are drawn as by `overlay`; `note` follows the heading of the prediction.
    """
    scale = min(largest_side / max(truth.shape), 1)
    size = (max(round(truth.shape[1] * scale), 1), max(round(truth.shape[0] * scale), 1))
    image = _resized(image, size, Image.Resampling.BILINEAR)
    truth = _resized(truth, size, Image.Resampling.NEAREST)
    prediction = _resized(prediction, size, Image.Resampling.NEAREST)
    colors = class_colors(class_names)
    colors[VOID_LABEL] = 255
    drawn = [
        overlay(image, mask, class_names, opacity=opacity) if opacity < 1 else _palettized(mask, colors)
        for mask in (truth, prediction)
    ]
    errors = error_map(image, truth, prediction, class_names)

    # The legend: the classes that appear, void, and the kinds of errors that appear.
    of_truth = _histogram(truth)
    found = np.flatnonzero(of_truth + _histogram(prediction)).tolist()
    shown = foreground(class_names) if opacity < 1 else range(len(class_names))
    entries = {index: class_names[index] for index in found if index in shown}
    if of_truth[VOID_LABEL]:
        entries[VOID_LABEL] = "void: not scored"
    for index, (count, text) in enumerate(zip(errors.histogram(), KINDS.values(), strict=False), len(colors)):
        if count:
            entries[index] = text

    pictures = {"image": Image.fromarray(image), "truth": drawn[0], f"prediction{note}": drawn[1], "errors": errors}
    return _with_headings(pictures, entries, np.concatenate([colors, np.array([*KINDS], np.uint8)]))


def _resized(pixels: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    """An image or a mask at a size, which is width and height."""
    height, width = pixels.shape[:2]
    return pixels if (width, height) == size else np.array(Image.fromarray(pixels).resize(size, resampling))


def legend(entries: dict[int, str], width: int, colors: np.ndarray) -> Image.Image:
    """A square in the color of each class index with its text; lines of `width` pixels, or of the longest text.

    colors: uint8 [indices, 3] RGB.
    """
    fonts = {index: font_for(text, _TEXT_SIZE) for index, text in entries.items()}
    advances = {index: _LINE + round(fonts[index].getlength(text)) + 12 for index, text in entries.items()}
    width = max([width, *advances.values()])
    places = []
    left = 0
    top = 0
    for index, text in entries.items():
        advance = advances[index]
        if left and left + advance > width:
            left = 0
            top = top + _LINE
        places.append((left, top, index, text))
        left += advance
    picture = Image.new("RGB", (width, top + _LINE), "white")
    draw = ImageDraw.Draw(picture)
    for left, top, index, text in places:
        draw.rectangle((left + 2, top + 4, left + 13, top + 15), tuple(colors[index].tolist()), "grey")
        draw.text((left + _LINE, top + 2), text, "black", fonts[index])
    return picture


def class_shares(mask: np.ndarray) -> list[tuple[int, float]]:
    """The classes in a mask (uint8 [height, width]) and their shares of its non-void pixels, the largest first."""
    counts = _histogram(mask)
    counts[VOID_LABEL] = 0
    indices = np.flatnonzero(counts)
    shares = zip(indices.tolist(), (counts[indices] / max(counts.sum(), 1)).tolist(), strict=True)
    return sorted(shares, key=lambda item: -item[1])


def _histogram(mask: np.ndarray) -> np.ndarray:
    """The number of pixels of each index: int64 [256]. Unlike NumPy, Pillow counts bytes without making them larger."""
    return np.array(Image.fromarray(mask).histogram())


def _bands(height: int, width: int) -> list[slice]:
    """The rows of a picture, some at a time, so that what NumPy makes of them fits in the processor's cache."""
    num_rows = max(2**16 // width, 1)
    return [slice(top, min(top + num_rows, height)) for top in range(0, height, num_rows)]


def confusion_picture(matrix: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """A confusion matrix (integers [classes, classes], rows true) as shares of each row; names on both sides.

    The darker a cell, the larger its share; up to 30 classes the cell shows the share in per cent. The row of a class
    without pixels is gray.
    """
    count = len(class_names)
    cell = 32 if count <= _NUMBERED_CLASSES else max(900 // count, 7)
    size = min(_TEXT_SIZE, cell)
    margin = round(max(font_for(name, size).getlength(name) for name in class_names)) + 34
    picture = Image.new("RGB", (margin + count * cell + 1, margin + count * cell + 1), "white")
    draw = ImageDraw.Draw(picture)
    totals = matrix.sum(1)
    for row, name in enumerate(class_names):
        top = margin + row * cell
        draw.text((margin - 6, top + cell / 2), name, "black", font_for(name, size), anchor="rm")
        for column in range(count):
            left = margin + column * cell
            share = matrix[row, column] / totals[row] if totals[row] else None
            color = (225, 225, 225) if share is None else tuple(_blend(float(share)))
            draw.rectangle((left, top, left + cell, top + cell), color, "lightgrey")
            if share is not None and round(100 * share) and count <= _NUMBERED_CLASSES:
                ink = "white" if share > 0.5 else "black"
                number = f"{100 * share:.0f}"
                draw.text((left + cell / 2, top + cell / 2), number, ink, font_for(number, size), anchor="mm")
    _draw_upright(picture, [(margin + (column + 0.5) * cell, margin - 6) for column in range(count)], class_names, size)
    draw.text((margin + count * cell / 2, 12), "predicted", "black", font_for("predicted", size), anchor="mm")
    _draw_upright(picture, [(12, margin + count * cell / 2 + 12)], ["true"], size)
    return picture


def _blend(share: float) -> list[int]:
    """White for 0, blue for 1; the square root makes small shares visible."""
    return np.round(255 + share**0.5 * (_MATRIX_BLUE - 255)).astype(int).tolist()


def _draw_upright(
    picture: Image.Image,
    ends: list[tuple[float, float]],
    texts: Sequence[str],
    size: int,
) -> None:
    """Draws texts that read upwards; each begins at its point in `ends`."""
    for (x, y), text in zip(ends, texts, strict=True):
        font = font_for(text, size)
        line = Image.new("L", (round(font.getlength(text)) + 2, _LINE), 0)
        ImageDraw.Draw(line).text((0, _LINE / 2), text, 255, font, anchor="lm")
        line = line.rotate(90, expand=True)
        picture.paste("black", (round(x - line.width / 2), round(y - line.height)), line)


def _with_headings(pictures: Mapping[str, Image.Image], entries: dict[int, str], colors: np.ndarray) -> Image.Image:
    """Pictures of one height in a row, below their headings, and a `legend`.

    Each is drawn in its place at once: to copy a large picture takes longer than to draw most of them.
    """
    fonts = {text: font_for(text, _TEXT_SIZE) for text in pictures}
    widths = [max(each.width, round(fonts[text].getlength(text)) + 4) for text, each in pictures.items()]
    below = legend(entries, sum(widths) + _GAP * (len(widths) - 1), colors)
    bottom = _LINE + max(each.height for each in pictures.values())
    drawn = Image.new("RGB", (below.width, bottom + below.height), "white")
    draw = ImageDraw.Draw(drawn)
    left = 0
    for (text, picture), width in zip(pictures.items(), widths, strict=True):
        draw.text((left + 2, 1), text, "black", fonts[text])
        drawn.paste(picture, (left, _LINE))
        left += width + _GAP
    drawn.paste(below, (0, bottom))
    return drawn


def stack(*pictures: Image.Image) -> Image.Image:
    """Pictures of any size, one below another, left-aligned, on white."""
    column = Image.new("RGB", (max(picture.width for picture in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        column.paste(picture, (0, top))
        top += picture.height
    return column


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Pictures of any size and mode in a row, top-aligned, on white."""
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def save(picture: Image.Image, path: Path, has_photo: bool = False) -> None:
    """Writes a PNG, completely or not at all; creates its folder.

    A photo hardly gets smaller by more work: it is 8 % larger than at zlib's usual level, in a quarter of the time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", compress_level=1 if has_photo else 6)


def save_tiff(picture: Image.Image, path: Path, tags: Mapping[int, tuple[int, Any]]) -> None:
    """As `save`, but a compressed TIFF with these tags: type and value, by number."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (kind, value) in tags.items():
        directory.tagtype[number] = kind
        directory[number] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        picture.save(temporary, "TIFF", compression="tiff_adobe_deflate", tiffinfo=directory)
