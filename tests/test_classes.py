"""The class table: what is read as which classes, what masks become by it, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable, classes_of, read_classes
from deeplab.data.source.masks import read_mask
from deeplab.errors import DataError
from deeplab.labels import palette

BLACK, RED, GREEN, WHITE = (0, 0, 0), (255, 0, 0), (0, 128, 0), (255, 255, 255)


def _table(tmp_path, content, name="classes.txt"):
    (tmp_path / name).write_text(content, encoding="utf-8")
    return read_classes(tmp_path / name)


def _labels(tmp_path, picture, classes, name="mask.png"):
    picture.save(tmp_path / name)
    return read_mask(tmp_path / name, classes).labels.tolist()


def _gray(*values):
    return Image.fromarray(np.array([values], np.uint8))


def _rgb(*colors):
    return Image.fromarray(np.array([colors], np.uint8))


def test_plain_names_have_their_indices_and_void(tmp_path):
    classes = _table(tmp_path, "road\nsky\n")
    assert classes == ClassTable.of_names(("road", "sky"))
    assert classes.is_plain
    assert _labels(tmp_path, _gray(0, 1, 255), classes) == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("void: 0 #000000\ncat: 1\nbackground: 2\ndog: 3, 4 #FF00aa", "classes.txt", ("", "", "#ff00aa")),
        ("cat: #ff0000, #800000\nvoid: *\nbackground: #000001", "classes.txt", ("#000001", "#ff0000")),
        ("cat:250,50,83::\ndog:::", "labelmap.txt", ("#fa3253", "#800000")),
        ("cat: 1\ndog: 2", "classes.txt", ()),
        ("cat\ndog", "classes.txt", ()),
    ],
)
def test_colors_of_pictures(tmp_path, text, name, shown):
    """Behind the values; else those of the masks, which a color behind values does not change."""
    classes = _table(tmp_path, text, name)
    assert classes.shown == shown
    assert classes.as_text() == _table(tmp_path, text.replace(" #000000", "").replace(" #FF00aa", ""), name).as_text()


@pytest.mark.parametrize("color", ["#", "#ff00", "#gg0000", "#ff00000"])
def test_a_malformed_color_is_named_with_its_line(tmp_path, color):
    with pytest.raises(DataError) as error:
        _table(tmp_path, f"background: 0\ncat: 1, 2 {color}\n")
    file = tmp_path / "classes.txt"
    reason = "is not a colour: # and six hexadecimal digits, such as #ff0000"
    assert str(error.value) == f"{file}: line 2: '{color}' {reason}"


@pytest.mark.parametrize(
    ("text", "encoding", "readings"),
    [
        ("道路", "gbk", ["'道路' in GBK", "'µÀÂ·' in CP1252"]),
        ("café noir", "cp1252", ["'café noir' in CP1252"]),
        ("空", "shift_jis", ["'空' in SHIFT_JIS"]),
    ],
)
def test_another_encoding_is_named_with_what_the_line_would_be(tmp_path, text, encoding, readings):
    (tmp_path / "names.txt").write_bytes(f"background\n{text}\n".encode(encoding))
    with pytest.raises(DataError) as error:
        read_classes(tmp_path / "names.txt")
    start, would_be = str(error.value).split("; it would be ")
    assert start == f"{tmp_path / 'names.txt'}: cannot be read (class names): line 2 is not UTF-8"
    assert would_be.endswith("; convert the file from the right one, for example: iconv -f GBK -t UTF-8 OLD > NEW")
    assert set(readings) <= set(would_be.split(";")[0].split(" or "))


def test_what_is_no_text_is_said_to_be_none(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff")
    with pytest.raises(DataError, match=r"names\.txt: cannot be read \(class names\): it is neither UTF-8 nor UTF-16"):
        read_classes(tmp_path / "names.txt")


def test_the_same_file_in_the_encodings_of_windows(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        (tmp_path / "names.txt").write_bytes("road\r\nsky \r\n\r\n".encode(encoding))
        assert read_classes(tmp_path / "names.txt").names == ("road", "sky")


VALUES = {
    "0 and 255": ("background: 0\nobject: 255\n", [0, 255], [0, 1]),
    "Oxford-IIIT Pet's 1, 2, 3": ("foreground: 1\nbackground: 2\nborder: 3\n", [1, 2, 3], [1, 0, 2]),
    "ADE20K, 0 is void": ("void: 0\nwall: 1\nbuilding: 2\n", [0, 1, 2], [255, 0, 1]),
    "Cityscapes' labelIds": ("road: 7\nsidewalk: 8\nvoid: *\n", [7, 8, 0, 255, 33], [0, 1, 255, 255, 255]),
    "several values": ("background: 0\ncar: 1, 3,9\nvoid: 255\n", [0, 1, 3, 9, 255], [0, 1, 1, 1, 255]),
    "all else is background": ("cat: 5\nbackground: *\n", [5, 0, 200], [1, 0, 0]),
    "blanks and empty lines": (" background :0\n\n  traffic light:  1 \n", [0, 1], [0, 1]),
}


@pytest.mark.parametrize("name", VALUES)
def test_tables_of_values(tmp_path, name):
    content, values, expected = VALUES[name]
    classes = _table(tmp_path, content)
    assert not classes.is_plain
    assert _labels(tmp_path, _gray(*values), classes) == [expected]
    palette = _gray(*values)
    palette.putpalette(bytes(range(256)) * 3)
    assert _labels(tmp_path, palette, classes) == [expected]
    assert _labels(tmp_path, _rgb(*([value] * 3 for value in values)), classes) == [expected]


def test_order_of_the_lines_is_that_of_the_classes_and_background_is_first(tmp_path):
    assert _table(tmp_path, "sky: 3\n_Background_: 2\nroad: 1\nVoid: 0\n").names == ("_Background_", "sky", "road")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif"])
def test_tables_of_colors(tmp_path, mode, ending):
    classes = _table(tmp_path, "background: #000000\ncat: #FF0000, #ffffff\nvoid: #008000\n")
    picture = _rgb(BLACK, RED, GREEN, WHITE)
    if mode == "P" or ending == "gif":
        picture = picture.quantize(4)
    elif mode == "RGBA":
        picture.putalpha(Image.fromarray(np.array([[255, 255, 0, 9]], np.uint8)))
    assert _labels(tmp_path, picture, classes, f"mask.{ending}") == [[0, 1, 255, 1]]


def test_gray_and_one_bit_masks_by_colors_and_by_values(tmp_path):
    one_bit = _gray(0, 255).convert("1")
    black_and_white = _table(tmp_path, "background: #000000\nobject: #ffffff\n")
    assert _labels(tmp_path, one_bit, black_and_white) == [[0, 1]]
    assert _labels(tmp_path, _gray(0, 255), black_and_white) == [[0, 1]]
    assert _labels(tmp_path, one_bit, ClassTable.of_names(("background", "object"))) == [[0, 1]]
    assert _labels(tmp_path, one_bit, _table(tmp_path, "background: 0\nobject: 255\n")) == [[0, 1]]
    assert _labels(tmp_path, one_bit, _table(tmp_path, "object: 0\nbackground: 1\nvoid: 255\n")) == [[1, 0]]
    with pytest.raises(DataError, match=r"mask\.png: colour #010101 \(1 pixel\) without a class"):
        _labels(tmp_path, _gray(0, 1), black_and_white)


def test_gray_with_alpha_is_gray(tmp_path):
    picture = Image.merge("LA", [_gray(0, 1), _gray(255, 0)])
    assert _labels(tmp_path, picture, ClassTable.of_names(("background", "object"))) == [[0, 1]]


def test_all_other_colors(tmp_path):
    classes = _table(tmp_path, "cat: #ff0000\nbackground: #000000\nvoid: *\n")
    assert classes.names == ("background", "cat")
    assert _labels(tmp_path, _rgb(BLACK, RED, WHITE), classes) == [[0, 1, 255]]


def test_cvats_and_datumaros_labelmap(tmp_path):
    text = (
        "# label:color_rgb:parts:actions\nperson:192,128,128:head,hand:jumping\nbackground:0,0,0::\nignored:0,128,0::\n"
    )
    classes = _table(tmp_path, text, "labelmap.txt")
    assert classes.names == ("background", "person")
    assert _labels(tmp_path, _rgb(BLACK, (192, 128, 128), GREEN), classes) == [[0, 1, 255]]
    assert _table(tmp_path, text.split("\n", 1)[1], "labelmap.txt") == classes  # without its header


def test_labelmap_without_colors_has_vocs(tmp_path):
    """As Datumaro 1.13 writes it for masks that it draws in VOC's colours."""
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    classes = read_classes(tmp_path / "labelmap.txt")
    assert classes.names == ("background", "cat", "dog")
    assert classes.colors == {(0, 0, 0): 0, (128, 0, 0): 1, (0, 128, 0): 2}


def test_roboflows_classes(tmp_path):
    classes = _table(tmp_path, 'Pixel Value, Class\n0, background\n1, cat\n2, "dog, small"\n', "_classes.csv")
    assert classes.names == ("background", "cat", "dog, small")
    assert _labels(tmp_path, _gray(0, 1, 2), classes) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no class names"),
        ("a\nb\na\n", r"duplicate class name 'a' \(lines 1 and 3\)"),
        ("\n".join(f"x{index}" for index in range(256)), "256 class names"),
        ("a\n\nb\n", "line 2 is empty"),
        ("a\n# b\n", "line 2: '# b' is not a class name"),
        ("a\nb, c\n", "line 2: 'b, c' is not a class name"),
        ("0\tcat\n", "line 1: .* is not a class name"),
        ("0 background\n1 cat\n", "line 1: .*begins with a number"),
        (
            "background\nroad: wet\ncat\n",
            "line 1: 'background' has no value, but the colon in line 2, 'road: wet', makes the file a table; .* in a "
            "list of names, no name has a colon",
        ),
        ("road: wet\nroad: dry\n", "line 1: 'wet' is neither .* in a list of names, no name has a colon"),
        (
            "sky:0,0,0::\nroad:0,0,0::\n",
            "lines 1 and 2 both have #000000, so that masks do not tell sky and road apart; .* such as `sky: #000000`",
        ),
        ("background\ncat::\n", "line 1: 'background' has no value"),
        ("background:0,0,0::\ncat:x,0,0::\n", "line 2: 'cat:x,0,0::' is not `name:red,green,blue::`"),
        ("background: 0\ncat\n", "line 2: 'cat' has no value"),
        ("background: 0\ncat:\n", "line 2: 'cat:' has no value"),
        ("background: 0\n# cat: 1\n", "line 2: .* comments are not supported"),
        ("background: 0\n: 1\n", "line 2 has no name"),
        ("background: 0\ncat: 256\n", "line 2: '256' is neither a value from 0 to 255 nor a colour"),
        ("background: 0\ncat: -1\n", "line 2: '-1' is neither"),
        ("background: 0\ncat: #ff00\n", "line 2: '#ff00' is neither"),
        ("background: 0\ncat: red\n", "line 2: 'red' is neither"),
        ("background: 0\ncat: 1\ndog: 1\n", "lines 2 and 3 both have 1"),
        ("background: *\nvoid: *\n", r"lines 1 and 2 both have \*"),
        ("background: 0\ncat: #ff0000\n", "has values and colours"),
        ("0: background\n1: cat\n", "line 1: 'background' is neither"),
        ("void: 0\n", "no class except void"),
        ("cat: *\n", r"no value except \*"),
        ("Pixel Value, Class\n0, background, more\n", "line 2: .* is not a pixel value and a class"),
        ('{"names": ["a"]}\n', "line 1"),
    ],
)
def test_what_is_no_class_table_is_refused_by_its_line(tmp_path, content, reason):
    with pytest.raises(DataError, match=rf"classes\.txt: .*{reason}"):
        _table(tmp_path, content)


@pytest.mark.parametrize("content", ["cat\ndog\nCat\n", "cat: 0\ndog: 1\nCat: 2\n"])
def test_names_that_look_alike_are_named(tmp_path, caplog, content):
    """They may be meant, and converters write what was drawn."""
    assert _table(tmp_path, content).names == ("cat", "dog", "Cat")
    assert "'cat' and 'Cat' (lines 1 and 3) look alike" in caplog.text


def test_void_among_plain_names_is_told(tmp_path, caplog):
    assert _table(tmp_path, "road\nVoid\n").names == ("road", "Void")
    assert "void is an ordinary class" in caplog.text


@pytest.mark.parametrize(
    ("content", "picture", "reason"),
    [
        ("a\nb\n", _gray(0, 3), "label 3, but there are 2 classes .*`NAME: 3`"),
        ("a: 0\nb: 9\n", _gray(0, 3, 3, 4), "values 3, 4 without a class in .*classes.txt"),
        ("a: #000000\n", _rgb(BLACK, RED), r"colour #ff0000 \(1 pixel\) without a class in .*classes.txt"),
        (
            "a: #000000\n",
            _rgb(*((0, 0, index) for index in range(9))),
            r"and 5 others \(8 pixels, of smoothed edges\?\)",
        ),
        ("a: 0\nb: 9\n", _rgb(BLACK, RED), "contains colours, but the class table has values"),
        (
            "a\nb\n",
            _rgb(BLACK, RED),
            "contains colours, but the classes are plain names.*`NAME: #000000`, `NAME: #ff0000`",
        ),
        ("a\nb\n", _rgb(BLACK, (1, 1, 1)), "contains colours, but the classes are plain names"),
        ("a\nb\n", Image.new("CMYK", (2, 2)), "a JPEG, which changes"),
        ("a\nb\n", Image.fromarray(np.zeros((2, 2), np.float32)), "a TIFF of mode F, 32-bit floating-point"),
        (
            "a\nb\n",
            Image.fromarray(np.array([[0, 300], [300, 65535]], np.uint16)),
            "values 300, 65535 in a mask of more than 8 bits; .* from 0 to 255",
        ),
        ("a: 0\nvoid: *\n", Image.fromarray(np.array([[0, 256]], np.uint16)), "value 256 in a mask of more than 8"),
        ("a\nb\n", Image.fromarray(np.array([[0, 2]], np.uint16)), "label 2, but there are 2 classes"),
    ],
)
def test_what_is_no_mask_of_the_classes_is_refused_by_name(tmp_path, content, picture, reason):
    classes = _table(tmp_path, content)
    format = {"CMYK": "JPEG", "F": "TIFF"}.get(picture.mode, "PNG")
    picture.save(tmp_path / "mask.png", format)
    with pytest.raises(DataError, match=rf"mask\.png: .*{reason}"):
        read_mask(tmp_path / "mask.png", classes)


@pytest.mark.parametrize(("ending", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("tif", "<i4")])
def test_indices_in_wide_numbers_are_read(tmp_path, dtype, ending):
    indices = np.array([[0, 1, 2], [255, 2, 0]], dtype)
    Image.fromarray(indices).save(tmp_path / f"mask.{ending}")
    with Image.open(tmp_path / f"mask.{ending}") as saved:
        assert saved.mode.startswith("I")
    plain = read_mask(tmp_path / f"mask.{ending}", _table(tmp_path, "a\nb\nc\n"))
    assert plain.labels.dtype == np.uint8
    np.testing.assert_array_equal(plain.labels, indices)
    table = _table(tmp_path, "a: #000000\nb: #020202\nvoid: *\n")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{ending}", table).labels, [[0, 255, 1], [255, 1, 0]])


def test_a_negative_index_is_refused(tmp_path):
    Image.fromarray(np.array([[0, -1]], np.int32)).save(tmp_path / "mask.tif")
    with pytest.raises(DataError, match=r"mask\.tif: value -1 in a mask of more than 8 bits"):
        read_mask(tmp_path / "mask.tif", _table(tmp_path, "a\nb\n"))


@pytest.mark.parametrize("content", ["a\nb\nc\nd\n", "a: 0\nb: 1\nc: 3\nvoid: 255\n"])
def test_a_gif_is_read_by_its_colors_only(tmp_path, content):
    """Pillow drops the unused entry 2 when it saves a GIF, so that 3 becomes 2 and 255 becomes 3."""
    indices = np.array([[0, 1, 3], [255, 3, 0]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette().tobytes())
    image.save(tmp_path / "mask.gif")
    with Image.open(tmp_path / "mask.gif") as saved:
        assert not np.array_equal(np.array(saved), indices)
    reason = r"mask\.gif: a GIF, whose indices programs renumber .* `NAME: #000000`, `NAME: #808000`, `NAME: #800000`"
    with pytest.raises(DataError, match=reason):
        read_mask(tmp_path / "mask.gif", _table(tmp_path, content))
    colors = _table(tmp_path, "a: #000000\nb: #800000\nc: #008000\nd: #808000\nvoid: #e0e0c0\n")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.gif", colors).labels, indices)


def test_the_data_sets_own_classes_are_taken(tmp_path, caplog):
    caplog.set_level("INFO")
    assert classes_of(tmp_path, None).names == voc.CLASS_NAMES
    assert "VOC's 21, since no --class_names" in caplog.text
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:1,2,3::\n")
    assert classes_of(tmp_path, None).colors == {(0, 0, 0): 0, (1, 2, 3): 1}
    (tmp_path / "class_names.txt").write_text("background\ndog\n")
    assert classes_of(tmp_path, None).names == ("background", "dog")
    assert "class_names.txt: 2 classes: background, dog" in caplog.text
    (tmp_path / "named.txt").write_text("sea\nland\n")
    assert classes_of(tmp_path, tmp_path / "named.txt").names == ("sea", "land")
