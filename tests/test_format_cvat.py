"""CVAT's annotations: names, splits, what is left out, and lines that name what is damaged."""

from pathlib import Path

import pytest
from converted import masks_of, read_format
from PIL import Image

from deeplab.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "formats"


def test_cvat_splits_and_what_is_left_out():
    pytest.importorskip("pycocotools")
    dataset = read_format(GOLDEN / "cvat", "cvat_xml", "annotations.xml")
    assert [example.split for example in dataset.examples] == ["train", "train", "train", "val"]
    assert {reason: len(names) for reason, names in dataset.left_out.items()} == {
        "polyline: covers no area": 4,
        "points: covers no area": 4,
    }
    with pytest.raises(DataError, match=r"--strict: 4 polyline: covers no area"):
        read_format(GOLDEN / "cvat", "cvat_xml", "annotations.xml", strict=True)


BOX = '<box label="a" xtl="1" ytl="1" xbr="9" ybr="9"/>'
MASK = '<mask label="a" rle="{}" left="{}" top="0" width="4" height="2"/>'


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<box label="a" xtl="1" ytl="1" xbr="9"/>', r"image 'a\.png': a <box> without 'ybr'"),
        ('<box label="a" xtl="1" ytl="1" xbr="9" ybr="nan"/>', "a <box>: a number that is not finite"),
        ('<polygon label="a" points="1,1;2,2;x,3"/>', "a <polygon>: could not convert"),
        ('<polygon label="a" points="1,1;2,2;inf,3"/>', "an outline of 3 points that are not all finite"),
        ('<polygon label="a" points="1,1;2,2;1e9,3"/>', r"'a' cannot be drawn: the point \(1e\+09, 3\) is far outside"),
        ('<ellipse label="a" cx="5" cy="5" rx="1e9" ry="3"/>', "'a' cannot be drawn: the point .* is far outside"),
        (MASK.format("3, 4", 0), r"'a' cannot be drawn: its run lengths add up to 7 pixels, not 8"),
        (MASK.format("3, 9999999999", 0), "a <mask>: a run of 9999999999 pixels"),
        (MASK.format("3, 4000000000", 0), "'a' cannot be drawn: its run lengths add up to 4,000,000,003 pixels, not 8"),
        (MASK.format("3, -5, 10", 0), "a <mask>: a run of -5 pixels"),
        (MASK.format("3, 5", 78), r"a mask of 4x2 pixels at \(78, 0\) does not lie in 80x60 pixels"),
        ('<box label="" xtl="1" ytl="1" xbr="9" ybr="9"/>', "the label '' is empty"),
    ],
)
def test_a_damaged_shape_of_cvat_is_named(tmp_path, shape, words):
    pytest.importorskip("pycocotools")
    path = tmp_path / "set" / "annotations.xml"
    path.parent.mkdir()
    images = ""
    for name in "ab":
        Image.new("RGB", (80, 60)).save(path.parent / f"{name}.png")
        shapes = BOX + (shape if name == "a" else "")
        images += f'<image name="{name}.png" width="80" height="60">{shapes}</image>'
    path.write_text(f"<annotations>{images}</annotations>")
    with pytest.raises(DataError, match=rf"annotations\.xml: .*{words}"):
        masks_of(read_format(path.parent, "cvat_xml", path.name), tmp_path)
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "a document type"),
        ("<annotations><track/></annotations>", "tracks of a video; export 'CVAT for images 1.1'"),
        ("<annotations><image", "cannot be read as XML: unclosed token"),
        ("<annotation><object/></annotation>", "not CVAT's XML: <annotation>"),
        ("<annotations><image name='a.png' width='8' height='8'/></annotations>", "missing file"),
        ("<annotations/>", "no object covers an area"),
        (f"<annotations>{'<a>' * 100}{'</a>' * 100}</annotations>", "no object covers an area"),
    ],
)
def test_xml_that_is_not_cvats_is_refused(tmp_path, text, words):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml.*{words}|{words}.*a\.xml"):
        read_format(tmp_path, "cvat_xml", "a.xml")


@pytest.mark.parametrize("attributes", ['name="../a.png"', 'name="a.png" subset=".."'])
def test_images_outside_the_folder_are_refused(tmp_path, attributes):
    pytest.importorskip("pycocotools")
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    image = f'<image {attributes} width="80" height="60">{BOX}</image>'
    (folder / "a.xml").write_text(f"<annotations>{image}</annotations>")
    with pytest.raises(DataError, match=r"example a: a\.png is outside \S*set; give a folder that holds the whole"):
        read_format(folder, "cvat_xml", "a.xml")
    assert read_format(folder, "cvat_xml", "a.xml", allow_outside=True).examples[0].name == "a"


def test_shapes_of_a_damaged_image_belong_to_no_other(tmp_path, caplog):
    pytest.importorskip("pycocotools")
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    good = f'<image name="a.png" width="80" height="60">{BOX}</image>'
    (tmp_path / "a.xml").write_text(f'<annotations><image name="b.png">{BOX}</image>{good}</annotations>')
    with pytest.raises(DataError, match=r"a\.xml: the first image: a <image> without 'width'; nothing was written"):
        read_format(tmp_path, "cvat_xml", "a.xml")


def test_document_types_are_refused_in_other_encodings(tmp_path):
    (tmp_path / "a.xml").write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>'.encode("utf-16"))
    with pytest.raises(DataError, match="a document type"):
        read_format(tmp_path, "cvat_xml", "a.xml")
