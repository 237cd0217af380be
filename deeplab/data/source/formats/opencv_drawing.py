"""Filled outlines and ellipses with the pixels that OpenCV fills, without OpenCV.

What it fills, found by trying version 4.12 (`bench/checks/formats.py` compares): the pixels between the crossings of a
row with the edges, by the even-odd rule, and the border. A border is a line of Bresenham's, from left to right.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from deeplab.data.source.formats.areas import Area, Patch, Point
from deeplab.data.source.formats.dataset import check_near_image

_ONE = 1 << 16  # OpenCV draws ellipses in fixed-point numbers
_HALF = _ONE >> 1
_DEGREES_OF_STEP = ((3, 90), (10, 30), (15, 18))
"""Longer radius below -> degrees between the corners of the polygon that OpenCV draws for an ellipse; else 5."""


def outline(rings: Sequence[Sequence[tuple[int, int]]], has_last: bool = True) -> Area:
    """What lies in an odd number of rings of whole coordinates, and all borders: OpenCV's fillPoly.

    Without `has_last`, slanted lines lack their rightmost pixel: upolygon's draw_polygon, which V7 uses.
    """
    return functools.partial(_outline, [np.array(ring, np.float64) for ring in rings], has_last)


def _outline(rings: list[np.ndarray], has_last: bool, height: int, width: int) -> Patch:
    corners = np.concatenate(rings)
    for ring in rings:
        check_near_image(ring.tolist(), height, width)
    corners = corners.astype(np.int64)
    first = corners.min(0)
    columns, rows = (corners.max(0) - first + 1).tolist()
    ends = corners - first
    starts = np.concatenate([np.roll(ring, 1, 0) for ring in rings]).astype(np.int64) - first

    # Each crossing counts for the rows from the upper end of an edge up to, but without, the lower end.
    upward = (starts[:, 1] > ends[:, 1])[:, None]
    upper = np.where(upward, ends, starts)
    lower = np.where(upward, starts, ends)
    lengths = lower[:, 1] - upper[:, 1]
    edge, step = _counted(lengths)
    row = upper[edge, 1] + step
    x = upper[edge, 0] + step * (lower[edge, 0] - upper[edge, 0]) / np.maximum(lengths, 1)[edge]
    order = np.lexsort((x, row))
    left = np.ceil(x[order][::2]).astype(np.int64)
    right = np.floor(x[order][1::2]).astype(np.int64) + 1
    inside = left < right
    changes = np.zeros((rows, columns + 1), np.int32)
    np.add.at(changes, (row[order][::2][inside], left[inside]), 1)
    np.add.at(changes, (row[order][::2][inside], right[inside]), -1)
    pixels = np.cumsum(changes, 1)[:, :columns] > 0
    pixels[_line_pixels(starts, ends, has_last)] = True
    return Patch(int(first[0]), int(first[1]), pixels)


def _line_pixels(starts: np.ndarray, ends: np.ndarray, has_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the lines between points, int64 [lines, 2]."""
    backward = (starts[:, 0] > ends[:, 0])[:, None]
    first = np.where(backward, ends, starts)
    vector = np.where(backward, starts, ends) - first
    size = np.abs(vector)
    longer = np.maximum(size.max(1), 1)
    counts = size.max(1) + (has_last | (size.min(1) == 0))
    line, step = _counted(counts)
    # Along the longer side, one pixel a step; along the other, rounded, halves toward the start.
    moved = (2 * size[line] * step[:, None] + longer[line, None] - 1) // (2 * longer[line, None])
    columns, rows = (first[line] + np.sign(vector[line]) * moved).T
    return rows, columns


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each index of `counts` repeated as often as it says, and beside it 0, 1, ..., count - 1."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def ellipse(center: Point, radii: Point, degrees: float) -> Area:
    """OpenCV's ellipse, turned clockwise as seen, with its rounding of center, radii and angle to whole numbers."""
    return functools.partial(_ellipse, center, radii, degrees)


def _ellipse(center: Point, radii: Point, degrees: float, height: int, width: int) -> Patch:
    x, y = map(round, center)
    longest = max(map(abs, map(round, radii)))
    check_near_image([(x - longest, y - longest), (x + longest, y + longest)], height, width)
    corners = _corners_of_ellipse((longest + 1, longest + 1), tuple(map(round, radii)), round(degrees))
    return Patch(x - longest - 1, y - longest - 1, _filled_convex(corners, 2 * longest + 3))


def _corners_of_ellipse(center: tuple[int, int], radii: tuple[int, ...], degrees: int) -> np.ndarray:
    """Corners in fixed-point numbers, int64 [corners, 2]; none equals the one before."""
    step = next((degrees_ for limit, degrees_ in _DEGREES_OF_STEP if max(map(abs, radii)) < limit), 5)
    angles = np.arange(0, 360 + step, step).clip(max=360)
    x = abs(radii[0]) * _ONE * _cosine(angles)
    y = abs(radii[1]) * _ONE * _cosine(angles - 90)
    cosine = _cosine(np.array(degrees))
    sine = _cosine(np.array(degrees - 90))
    corners = np.stack([center[0] * _ONE + x * cosine - y * sine, center[1] * _ONE + x * sine + y * cosine], 1)
    corners = np.rint(corners).astype(np.int64)
    return corners[np.append(True, (corners[1:] != corners[:-1]).any(1))]


def _cosine(degrees: np.ndarray) -> np.ndarray:
    """As in OpenCV's table of float32 numbers with seven decimals."""
    return np.round(np.cos(np.radians(degrees % 360)), 7).astype(np.float32).astype(np.float64)


def _filled_convex(corners: np.ndarray, side: int) -> np.ndarray:
    """Bool [side, side]: a convex polygon with corners in fixed-point numbers."""
    pixels = np.zeros((side, side), bool)
    starts = np.roll(corners, 1, 0).tolist()
    for start, end in zip(starts, corners.tolist(), strict=True):
        rows, columns = _fine_line(start, end)
        pixels[rows, columns] = True
    if len(corners) < 3:
        return pixels
    first = np.full(side, math.inf)
    last = np.full(side, -math.inf)
    bottom = (int(corners[:, 1].max()) + _HALF) >> 16
    for ends in zip(starts, corners.tolist(), strict=True):
        (x0, y0), (x1, y1) = sorted(ends, key=lambda point: point[1])
        top = (y0 + _HALF) >> 16
        rows = ((y1 + _HALF) >> 16) - top
        if not rows:
            continue
        slope = math.trunc((2 * (x1 - x0) + rows) / (2 * rows))
        count = rows + (top + rows == bottom)
        x = (x0 + slope * np.arange(count) + _HALF) >> 16
        first[top : top + count] = np.minimum(first[top : top + count], x)
        last[top : top + count] = np.maximum(last[top : top + count], x)
    columns = np.arange(side)
    return pixels | ((first[:, None] <= columns) & (columns <= last[:, None]))


def _fine_line(start: list[int], end: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of a line between points in fixed-point numbers; one pixel a step along its longer side."""
    is_steep = abs(end[0] - start[0]) <= abs(end[1] - start[1])
    along, across = (1, 0) if is_steep else (0, 1)
    if start[along] > end[along]:
        start, end = end, start
    length = end[along] - start[along]
    slope = math.trunc((end[across] - start[across]) * _ONE / (length | 1))
    step = np.arange((length >> 16) + 1)
    main = ((start[along] + _HALF) >> 16) + step
    other = (start[across] + _HALF + slope * step) >> 16
    main = np.append(main, (end[along] + _HALF) >> 16)
    other = np.append(other, (end[across] + _HALF) >> 16)
    return (main, other) if is_steep else (other, main)
