"""Palettes that were reordered, so that the colors of a mask are right and its indices are not, are named."""

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED_DATA
from PIL import Image

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare, prepare_splits
from deeplab.data.source.classes import ClassTable, classes_of, read_classes
from deeplab.data.source.masks import read_mask
from deeplab.data.source.palette_checks import find_other_order
from deeplab.errors import DataError
from deeplab.labels import palette

BLACK, MAROON, GREEN, CREAM, WHITE = 0x000000, 0x800000, 0x008000, 0xE0E0C0, 0xFFFFFF
NAMES = ("background", "cat", "dog")
MASK = Path("a.png")

RIGHT = {
    "VOC's own": [((0, BLACK), (1, MAROON), (2, GREEN), (255, CREAM))],
    "colours of one's own": [((0, BLACK), (1, 0x123456), (2, 0x654321))],
    "a background that is not black": [((0, WHITE), (1, 0xFF0000))],
    "a class that is white": [((0, BLACK), (1, WHITE))],
    "all black, so that colours tell nothing": [((0, BLACK), (1, BLACK), (2, BLACK))],
    "greys": [((0, BLACK), (1, 0x010101), (2, 0x020202))],
    "no mask with a palette": [],
}
ODD = {
    # palettes, index, its color, the class of the color, the class of the index, lines of the table
    "class 0 is index 2": (
        [((0, MAROON), (1, GREEN), (2, BLACK))],
        (0, "#800000", "class 1, cat", "class 0, background"),
        "`background: #000000`, `cat: #800000`, `dog: #008000`",
    ),
    "void comes first": (
        [((0, CREAM), (1, BLACK), (2, 0x112233))],
        (0, "#e0e0c0", "void", "class 0, background"),
        "`background: #000000`, `void: #e0e0c0`, `NAME: #112233`",
    ),
    "unused entries were dropped": (
        [((0, BLACK), (1, GREEN))],
        (1, "#008000", "class 2, dog", "class 1, cat"),
        "`background: #000000`, `dog: #008000`",
    ),
    "black and white exchanged, in the second mask": (
        [((0, BLACK), (1, WHITE)), ((0, WHITE), (1, BLACK))],
        (1, "#000000", "class 0, background", "class 1, cat"),
        "`background: #000000`, `NAME: #ffffff`",
    ),
    "background of another colour's place, and not in every mask": (
        [((3, BLACK), (5, 0x112233)), ((5, 0x112233), (7, 0x445566))],
        (3, "#000000", "class 0, background", "class 3"),
        "`background: #000000`, `NAME: #112233`, `NAME: #445566`",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_palettes_in_order_are_not_named(name):
    assert find_other_order([(MASK, palette) for palette in RIGHT[name]], NAMES) is None


@pytest.mark.parametrize("name", ODD)
def test_a_palette_in_another_order_is_named_with_the_table_to_write(name):
    palettes, (index, color, of_color, of_index), lines = ODD[name]
    assert find_other_order([(MASK, palette) for palette in palettes], NAMES) == (
        f"a.png: palette index {index} is {color}, the usual colour of {of_color}, but index {index} is {of_index}: "
        "was the palette reordered? If the colours tell the classes, give --class_names a table with one line per "
        f"class: {lines}; if the indices do, a table of them: `background: 0`, ..."
    )


def test_black_belongs_to_the_class_called_background_wherever_it_is():
    names = ("cat", "dog", "_Background_")
    assert find_other_order([(MASK, ((0, MAROON), (1, GREEN), (2, BLACK)))], names) is None
    assert "index 0 is #000000, the usual colour of class 2, _Background_" in find_other_order(
        [(MASK, ((0, BLACK), (1, MAROON)))], names
    )


def _reorder(path):
    """The same picture with the palette entries 2, 0, 1 of the old one first; void stays where it is."""
    order = [2, 0, 1, *range(3, 256)]
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[np.array(Image.open(path))])
    image.putpalette(palette()[order].tobytes())
    image.save(path)


def test_preparation_warns_once_of_reordered_masks_and_reads_them_by_the_table(tiny_voc, tmp_path, caplog):
    masks = sorted((tiny_voc / "SegmentationClass").glob("*.png"))
    right = prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "right", "train", NAMES).class_pixels
    assert "palette" not in caplog.text
    assert len(set(right)) == 3
    for path in masks:
        _reorder(path)
    wrong = prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "wrong", "train", NAMES).class_pixels
    assert wrong == (right[2], right[0], right[1])
    assert caplog.text.count("was the palette reordered?") == 1
    lines = caplog.text.split("one line per class: ")[1].split("; if the indices")[0]
    table = tmp_path / "table.txt"
    table.write_text("\n".join(line.strip("`") for line in lines.split(", ")))
    caplog.clear()
    again = prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "again", "train", read_classes(table))
    assert again.class_pixels == right
    assert "palette" not in caplog.text


def test_an_export_of_supervisely_is_named(tmp_path, caplog):
    folder = SHARED_DATA.parent / "reports" / "slyv2"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    prepare_splits(ShardSettings(voc_dir=folder), tmp_path, ["train", "val"], classes_of(folder, None))
    assert "ds0_im0.png: palette index 0 is #e0e0c0, the usual colour of void" in caplog.text
    assert "`background: #000000`, `void: #e0e0c0`, `NAME: #8a8a0f`" in caplog.text


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("wall", "building", "sky", "tree"), "`void: 0`, `wall: 1`, `building: 2`, ..."),
        (("background", "wall", "sky", "tree"), None),
    ],
)
def test_absent_classes_of_names_without_a_background_bring_advice(tiny_voc, tmp_path, caplog, names, advice):
    caplog.set_level(logging.WARNING)
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path, "train", names)
    assert "train has no pixel of " in caplog.text
    assert (advice is None) == ("as in ADE20K" not in caplog.text)
    assert advice is None or advice in caplog.text


@pytest.mark.parametrize(("colors", "largest"), [(16, 15), (4, 3), (2, 1)])
def test_an_index_cut_to_the_bits_of_a_short_palette_is_named(tmp_path, colors, largest):
    """Pillow writes 255 into 4, 2 or 1 bits of an index if the palette has 16, 4 or 2 colours."""
    mask = Image.fromarray(np.array([[0, 0, 255]], np.uint8))
    mask.putpalette([0, 0, 0] * colors)
    mask.save(tmp_path / "a.png")
    words = rf"a\.png: value {largest}, the largest of the \d bits .* may have cut 255.*`void: {largest}`"
    with pytest.raises(DataError, match=words):
        read_mask(tmp_path / "a.png", ClassTable.of_names(("background",)))
    table = ClassTable(("background",), {0: 0, largest: 255})
    assert read_mask(tmp_path / "a.png", table).labels.tolist() == [[0, 0, 255]]
