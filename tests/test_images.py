"""Images: what is read, what its pixels are, what is stored of it, and how it is found."""

import io
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.data.source import images
from deeplab.data.source.formats.dataset import Dataset, Example
from deeplab.data.source.formats.writer import write_voc
from deeplab.errors import DataError


def _picture():
    """Smooth colours, so that lossy formats keep near them; no symmetry, so that turns are seen."""
    colors = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(colors).resize((61, 47), Image.Resampling.BICUBIC)


RGB = _picture()
GRAY, PALETTE = RGB.convert("L"), RGB.quantize(50)
RGBA = Image.merge("RGBA", [*RGB.split(), GRAY])
READ = {
    "rgb.jpg": (RGB, {"quality": 90}),
    "fine.jpg": (RGB, {"quality": 90, "subsampling": 0}),
    "progressive.JPG": (RGB, {"format": "JPEG", "progressive": True}),
    "grey.jpg": (GRAY, {}),
    "cmyk.jpeg": (RGB.convert("CMYK"), {}),
    "rgb.png": (RGB, {}),
    "rgb_with_key.png": (RGB, {"transparency": (1, 2, 3)}),
    "rgba.png": (RGBA, {}),
    "grey_alpha.png": (Image.merge("LA", [GRAY, GRAY]), {}),
    "palette.png": (PALETTE, {}),
    "palette_with_key.png": (PALETTE, {"transparency": 3}),
    "one_bit.png": (RGB.convert("1"), {}),
    "rgb.bmp": (RGB, {}),
    "palette.bmp": (PALETTE, {}),
    "lossless.webp": (RGB, {"lossless": True}),
    "lossy.webp": (RGB, {}),
    "alpha.webp": (RGBA, {"lossless": True, "exact": True}),
    "rgb.tif": (RGB, {}),
    "lzw.tiff": (RGB, {"compression": "tiff_lzw"}),
    "jpeg.tif": (RGB, {"compression": "jpeg"}),
    "cmyk.tif": (RGB.convert("CMYK"), {}),
    "alpha.tif": (RGBA, {}),
    "one_bit.tif": (RGB.convert("1"), {}),
    "pages.tif": (RGB, {"save_all": True, "append_images": [RGB.rotate(180)]}),
    "frames.gif": (PALETTE, {"save_all": True, "append_images": [PALETTE.rotate(180)], "transparency": 2}),
    "rgb.ppm": (RGB, {}),
    "grey.pgm": (GRAY, {}),
}


def _expected(path):
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _decoded(content):
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy()


@pytest.mark.parametrize("name", READ)
def test_pixels_are_pillows_and_are_stored_without_loss(tmp_path, name):
    picture, options = READ[name]
    picture.save(tmp_path / name, **options)
    pixels = images.read_image(tmp_path / name)
    np.testing.assert_array_equal(pixels, _expected(tmp_path / name))
    if READ[name][0] is RGBA:
        np.testing.assert_array_equal(pixels, np.array(RGB))  # dropped, and not blended
    content, height, width = images.stored_form(tmp_path / name)
    assert (height, width) == (47, 61)
    np.testing.assert_array_equal(_decoded(content), pixels)
    is_kept = name.lower().endswith((".jpg", ".jpeg")) or name in ("rgb.png", "rgb_with_key.png")
    assert (content == (tmp_path / name).read_bytes()) == is_kept


def test_the_content_counts_and_not_the_ending(tmp_path):
    for format, ending in (("PNG", "jpg"), ("JPEG", "png"), ("BMP", "tif"), ("WEBP", "txt")):
        path = tmp_path / f"a.{ending}"
        RGB.save(path, format)
        np.testing.assert_array_equal(images.read_image(path), _expected(path))


def test_an_open_file_is_read(tmp_path):
    content = io.BytesIO()
    RGB.save(content, "PNG")
    content.seek(0)
    np.testing.assert_array_equal(images.read_image(content), np.array(RGB))
    RGB.save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(images.read_image(file), np.array(RGB))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_turns(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[274] = orientation
    RGB.save(path, **({"tiffinfo": {274: orientation}} if ending == "tif" else {"exif": exif}))
    upright = images.read_image(path)
    np.testing.assert_array_equal(upright, _expected(path))
    content, *size = images.stored_form(path)
    assert tuple(size) == upright.shape[:2] == ((61, 47) if orientation >= 5 else (47, 61))
    np.testing.assert_array_equal(_decoded(content), upright)
    file = images.ImageFile(path)
    assert (file.orientation, file.size) == (orientation, (61, 47))
    RGB.save(tmp_path / f"plain.{ending}")
    np.testing.assert_array_equal(file.pixels(turned=False), _expected(tmp_path / f"plain.{ending}"))
    assert (file.stored_form(turned=False)[0] == path.read_bytes()) == (ending in ("jpg", "png"))


def _tiff(path, photometric, samples, extra):
    """A TIFF of 2x1 pixels, the first of samples 10, 20, ..., the second of zeros; ExtraSamples as given."""
    values = bytes(10 * (number + 1) for number in range(samples)) + bytes(samples)
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 256)]
    entries += [(277, 3, 1, samples), (278, 3, 1, 1), (279, 4, 1, len(values))]
    bits = b"".join([(8).to_bytes(2, "little")] * samples)
    kinds = b"".join(kind.to_bytes(2, "little") for kind in extra)
    entries.append((258, 3, samples, 200 if samples > 2 else int.from_bytes(bits, "little")))
    if extra:
        entries.append((338, 3, len(extra), 230 if len(extra) > 2 else int.from_bytes(kinds, "little")))
    directory = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in sorted(entries)
    )
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little") + directory + bytes(4)
    path.write_bytes((header.ljust(200, b"\0") + bits).ljust(230, b"\0") + kinds.ljust(26, b"\0") + values)
    return path


@pytest.mark.parametrize(
    ("photometric", "samples", "extra", "number"),
    [
        (1, 1, (), 0),
        (2, 3, (), 0),
        (2, 4, (0,), 1),  # near infrared
        (2, 4, (), 1),
        (2, 4, (2,), 0),  # alpha
        (2, 5, (2, 0), 1),
        (2, 6, (0, 0, 0), 3),
        (1, 2, (0,), 1),
        (1, 2, (2,), 0),
        (5, 4, (), 0),
        (5, 5, (0,), 1),
    ],
)
def test_bands_beside_the_colors_are_counted(tmp_path, caplog, photometric, samples, extra, number):
    path = _tiff(tmp_path / "a.tif", photometric, samples, extra)
    assert images.ImageFile(path).other_bands == number
    pixels = images.read_image(path)
    assert pixels.shape == (1, 2, 3)
    if photometric < 5:
        assert pixels[0, 0].tolist() == ([10, 20, 30] if photometric == 2 else [10, 10, 10])
    lines = [f"{path}: left out: {number} band(s) beside the colours"] if number else []
    assert [record.getMessage() for record in caplog.records] == lines


def test_preparation_and_conversion_say_once_that_bands_are_left_out(tiny_voc, tmp_path, caplog):
    (tiny_voc / "JPEGImages" / "a.jpg").unlink()
    Image.new("L", (2, 1)).save(tiny_voc / "SegmentationClass" / "a.png")
    path = _tiff(tiny_voc / "JPEGImages" / "a.tif", 2, 5, (0, 0))
    prepare(ShardSettings(voc_dir=tiny_voc), tmp_path / "shards", "train", ("background", "one", "two"))
    examples = [Example(each.stem, each, lambda *size: np.zeros(size, np.uint8)) for each in path.parent.iterdir()]
    write_voc(Dataset(("background",), examples), tmp_path / "written", 0.5)
    line = f"left out: bands beside the colours in 1 of 2 images (2 in {path}); images are read as RGB"
    assert [record.getMessage() for record in caplog.records].count(line) == 2


def _sixteen_bit_rgb():
    """A TIFF of 2x1 pixels with 16 bits per channel, which Pillow would read as RGB in silence."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12)]
    directory = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in entries
    )
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little") + directory + bytes(4)
    return header.ljust(122, b"\0") + (16).to_bytes(2, "little") * 3 + b"\xff\x7f" * 6


@pytest.mark.parametrize(
    ("name", "make", "bits"),
    [
        ("grey.png", lambda path: Image.fromarray(np.full((5, 6), 300, np.uint16)).save(path), "16 bits"),
        ("grey.tif", lambda path: Image.fromarray(np.full((5, 6), 300, np.uint16)).save(path), "16 bits"),
        ("rgb.tif", lambda path: path.write_bytes(_sixteen_bit_rgb()), "16 bits"),
        ("float.tif", lambda path: Image.fromarray(np.ones((5, 6), np.float32)).save(path), "32-bit floating-point"),
        ("int.tif", lambda path: Image.fromarray(np.ones((5, 6), np.int32)).save(path), "32-bit signed"),
        ("rgb.ppm", lambda path: path.write_bytes(b"P6 # of a scanner\n2 1 65535\n" + bytes(12)), "16 bits"),
        ("grey.pgm", lambda path: path.write_bytes(b"P5\n2 1\n1023\n" + bytes(4)), "10 bits"),
        ("named.jpg", lambda path: Image.fromarray(np.ones((5, 6), np.uint16)).save(path, "PNG"), "16 bits"),
    ],
)
def test_more_than_8_bits_are_refused_and_never_clipped(tmp_path, name, make, bits):
    make(tmp_path / name)
    for read in (images.read_image, images.stored_form):
        with pytest.raises(
            DataError, match=rf"{name}: {bits}.* per channel, but only 8-bit images are supported; rescale"
        ):
            read(tmp_path / name)


def test_sixteen_bits_of_rgb_png_are_refused(tmp_path):
    RGB.save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[24] = 16
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: (16 bits|cannot be read)"):
        images.read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "cannot be read as an image: not in a supported format"),
        ("a.jpg", b"no picture", "cannot be read as an image: not in a supported format"),
        (
            "a.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "cannot be read as an image: not in a supported format",
        ),
        ("a.jpg", None, "no such file"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: {reason}"):
        images.read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "rgb.bmp", "lossless.webp", "lzw.tiff", "frames.gif"])
def test_files_that_are_cut_short_are_refused_by_name(tmp_path, name):
    picture, options = READ[name]
    picture.save(tmp_path / name, **options)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 4])
    with pytest.raises(DataError, match=name):
        images.read_image(tmp_path / name)


def test_a_changed_bit_of_a_png_is_noticed(tmp_path):
    RGB.save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        images.stored_form(tmp_path / "a.png")


def test_a_tiff_of_unknown_bands_is_called_a_tiff(tmp_path):
    """Four gray bands; Pillow says no more than that it knows no such image."""
    path = tmp_path / "a.tif"
    Image.new("RGBA", (4, 2)).save(path)
    content = path.read_bytes()
    photometric = content.index((262).to_bytes(2, "little") + b"\3\0\1\0\0\0\2\0")
    path.write_bytes(content[: photometric + 8] + b"\1" + content[photometric + 9 :])
    for read in (images.ImageFile, images.size_in_header):
        with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image: not a TIFF of bands or planes that"):
            read(path)


def test_colors_multiplied_by_alpha_are_refused(tmp_path):
    """Pillow divides them by it, which is wrong for a raster whose fourth band is something else."""
    with pytest.raises(DataError, match=r"a\.tif: its colours are multiplied by its alpha"):
        images.ImageFile(_tiff(tmp_path / "a.tif", 2, 4, (1,)))


def test_a_picture_too_large_is_refused_without_pillows_warning(tmp_path, monkeypatch):
    RGB.crop((0, 0, 40, 30)).save(tmp_path / "large.png")  # 1200 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.allow_pixels(1000)
        size = images.size_in_header(tmp_path / "large.png")
        with pytest.raises(DataError, match=r"large\.png: 40x30 pixels, more than --max_pixels=1,000"):
            images.check_pixels(str(tmp_path / "large.png"), size, 1000, "--max_pixels=")
