"""Palettes of masks: whether their colors contradict each other, or the class names.

An editor or optimizer that saves a mask again may put the palette into another order. The picture looks the same, but
its indices, which are the classes of plain names, are others.
"""

from collections.abc import Iterable
from pathlib import Path

from deeplab.data.source.classes import BACKGROUND, look
from deeplab.labels import VOID_LABEL, palette

Palette = tuple[tuple[int, int], ...]
"""(index, color 0xrrggbb) of the palette entries that a mask uses."""

_BLACK = 0
_SHOWN_LINES = 12


def find_disagreement(palettes: Iterable[tuple[Path, Palette]]) -> str | None:
    """A message that names two masks whose palettes give an index different colors; None if all agree.

    Palettes of grays alone are left out: programs write index 1 as #010101 or as white.
    """
    first: dict[int, tuple[int, Path]] = {}
    for path, entries in palettes:
        if all(color % 0x010101 == 0 for _, color in entries):
            continue
        for index, color in entries:
            other, other_path = first.setdefault(index, (color, path))
            if other != color:
                return (
                    f"{path}: palette index {index} is {hex_of(color)} here, but {hex_of(other)} in {other_path}, so "
                    "that indices do not identify classes; give --class_names a table of colours with one line per "
                    f"class: `NAME: {hex_of(other)}`"
                )
    return None


def find_other_order(palettes: Iterable[tuple[Path, Palette]], names: tuple[str, ...]) -> str | None:
    """A message that names a mask whose colors belong to other classes than its indices; None if there is none.

    Colors that tell a class are VOC's, if a mask has no others, and in all palettes VOC's void and black: the
    background, if a class is called so. `names` are plain, so that masks should hold indices.
    """
    listed = list(palettes)
    everywhere = dict(entry for _, entries in listed for entry in entries)
    for path, entries in listed:
        expected = _expected([color for _, color in entries], names)
        moved = [(index, color) for index, color in entries if expected.get(color, index) != index]
        # Colors that occur twice tell nothing, as in a palette that is black throughout.
        if not moved or len({color for _, color in entries}) < len(entries):
            continue
        index, color = moved[0]
        return (
            f"{path}: palette index {index} is {hex_of(color)}, the usual colour of {_name(expected[color], names)}, "
            f"but index {index} is {_name(index, names)}: was the palette reordered? If the colours tell the classes, "
            f"give --class_names a table with one line per class: {_color_lines(everywhere, expected, names)}; if the "
            f"indices do, a table of them: `{names[0]}: 0`, ..."
        )
    return None


def hex_of(color: int) -> str:
    """A color 0xrrggbb as class tables write it."""
    return f"#{color:06x}"


def _expected(colors: list[int], names: tuple[str, ...]) -> dict[int, int]:
    """The label that a color usually stands for."""
    codes = [int.from_bytes(bytes(color), "big") for color in palette()]
    background = [index for index, name in enumerate(names) if look(name) == BACKGROUND]
    of_voc = {codes[index]: index for index in (*range(len(names)), VOID_LABEL)}
    # Without a background, VOC's order says something only about its colors.
    if set(colors) <= set(of_voc) and background in ([0], []):
        return of_voc
    return {codes[VOID_LABEL]: VOID_LABEL} | ({_BLACK: background[0]} if background else {})


def _name(label: int, names: tuple[str, ...]) -> str:
    if label == VOID_LABEL:
        return "void"
    return f"class {label}, {names[label]}" if label < len(names) else f"class {label}"


def _color_lines(colors: dict[int, int], expected: dict[int, int], names: tuple[str, ...]) -> str:
    """The lines of a table for the colors by index, in the order of the classes as far as colors tell them."""
    labels = [(expected.get(color, VOID_LABEL + 1), index, color) for index, color in colors.items()]
    lines = []
    for label, _, color in sorted(labels)[:_SHOWN_LINES]:
        name = names[label] if label < len(names) else "void" if label == VOID_LABEL else "NAME"
        lines.append(f"`{name}: {hex_of(color)}`")
    return ", ".join(lines) + ", ..." * (len(labels) > _SHOWN_LINES)
