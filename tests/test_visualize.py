"""Pictures of masks, and pictures to segment."""

import numpy as np
from PIL import Image

from deeplab import visualize
from deeplab.predict import read_image


def test_colour_mask_shows_colours_and_keeps_indices(tmp_path):
    mask = np.array([[0, 1, 15], [20, 255, 2]], np.uint8)
    visualize.save(visualize.colour_mask(mask), tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.array(image), mask)
        colours = np.array(image.convert("RGB"))
    # From the table of colours of the VOC 2012 devkit: aeroplane, person, tvmonitor, void.
    for place, colour in {(0, 1): (128, 0, 0), (0, 2): (192, 128, 128), (1, 0): (0, 64, 128)}.items():
        assert tuple(colours[place]) == colour
    assert tuple(colours[1, 1]) == (224, 224, 192)


def test_overlay_mixes_and_leaves_background_clear():
    image = np.full((1, 2, 3), 100, np.uint8)
    mixed = np.array(visualize.overlay(image, np.array([[0, 1]], np.uint8), opacity=0.5))
    np.testing.assert_array_equal(mixed, [[[100, 100, 100], [114, 50, 50]]])  # aeroplane is (128, 0, 0)


def test_side_by_side_keeps_each_picture_whole():
    row = visualize.side_by_side(Image.new("RGB", (2, 3), "red"), Image.new("L", (4, 1), 7))
    assert row.size == (2 + 4 + 4, 3)
    pixels = np.array(row)
    assert (pixels[:, :2] == [255, 0, 0]).all()
    assert (pixels[0, 6:] == 7).all()
    assert (pixels[:, 2:6] == 255).all()


def test_images_are_read_as_rgb_and_turned_as_exif_says(tmp_path):
    Image.new("CMYK", (3, 2)).save(tmp_path / "cmyk.jpg")
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.new("RGB", (3, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "cmyk.jpg").shape == (2, 3, 3)
    assert (read_image(tmp_path / "grey.png") == 9).all()
    assert read_image(tmp_path / "turned.jpg").shape == (3, 2, 3)
