"""Pictures of masks, and pictures to segment."""

import numpy as np
from PIL import Image

from deeplab import predict, visualize
from deeplab.errors import DataError


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
    assert predict.read_image(tmp_path / "cmyk.jpg").shape == (2, 3, 3)
    assert (predict.read_image(tmp_path / "grey.png") == 9).all()
    assert predict.read_image(tmp_path / "turned.jpg").shape == (3, 2, 3)


def test_neighbouring_images_of_one_size_make_a_batch(tmp_path, monkeypatch):
    sizes = [(4, 3)] * 3 + [(3, 4), (4, 3), (9, 9), (9, 9)]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        Image.new("L", size, index).save(path)
    (tmp_path / "text.png").write_text("no picture")
    paths.insert(2, tmp_path / "text.png")
    monkeypatch.setattr(predict, "BATCH_PIXELS", 80)
    unread: list[DataError] = []
    batches = [[image.max() for _, image in batch] for batch in predict.batches_of_one_size(paths, unread, 2)]
    assert batches == [[0, 1], [2], [3], [4], [5], [6]]
    assert [str(error).partition(":")[0] for error in unread] == [str(tmp_path / "text.png")]
    whole = [len(batch) for batch in predict.batches_of_one_size(paths, [], 8)]
    assert whole == [3, 1, 1, 1, 1]


def test_error_map_shows_wrong_pixels_red_and_void_white():
    image = np.full((1, 4, 3), 100, np.uint8)
    truth, prediction = np.array([[0, 1, 255, 2]], np.uint8), np.array([[0, 2, 1, 2]], np.uint8)
    pixels = np.array(visualize.error_map(image, truth, prediction))
    np.testing.assert_array_equal(pixels[0], [[178] * 3, [230, 0, 60], [255] * 3, [178] * 3])


def test_panel_has_four_pictures_and_void_is_white():
    image = np.full((40, 60, 3), 100, np.uint8)
    truth = np.full((40, 60), 255, np.uint8)
    prediction = np.full((40, 60), 1, np.uint8)
    pixels = np.array(visualize.panel(image, truth, prediction, ("background", "thing")))
    top = 19  # of the heading
    assert pixels.shape[1] == 4 * 60 + 3 * 4
    middle = pixels[top + 20, 30::64]
    np.testing.assert_array_equal(middle, [[100] * 3, [255] * 3, [128, 0, 0], [255] * 3])
    small = visualize.panel(image, truth, prediction, ("background", "thing"), largest_side=30)
    assert small.width == 4 * 30 + 3 * 4


def test_class_shares_leave_void_out():
    mask = np.array([[3, 3, 3, 0], [255, 255, 255, 255]], np.uint8)
    assert visualize.class_shares(mask) == [(3, 0.75), (0, 0.25)]
    assert visualize.class_shares(np.full((2, 2), 255, np.uint8)) == []


def test_legend_has_a_square_for_each_class_and_grows_with_long_names():
    picture = visualize.legend({1: "a" * 100, 15: "person"}, 20)
    pixels = np.array(picture)
    assert picture.width > 500
    assert tuple(pixels[10, 8]) == (128, 0, 0)
    assert tuple(pixels[19 + 10, 8]) == (192, 128, 128)


def test_confusion_picture_is_dark_where_a_class_is_found():
    matrix = np.array([[9, 1, 0], [0, 0, 0], [5, 0, 5]])
    pixels = np.array(visualize.confusion_picture(matrix, ("a", "b", "c"))).astype(int)
    size = 32
    margin = pixels.shape[0] - 1 - 3 * size
    corners = pixels[margin + 4 :: size, margin + 4 :: size][:3, :3]  # clear of the numbers
    expected = 255 + np.sqrt(np.array([[0.9, 0.1, 0], [0, 0, 0], [0.5, 0, 0.5]]))[..., None] * (
        np.array([8, 48, 107]) - 255
    )
    expected[1] = 225  # a class without pixels
    np.testing.assert_allclose(corners, expected, atol=0.51)
    many = visualize.confusion_picture(np.eye(60, dtype=int), [str(index) for index in range(60)])
    assert many.width < 1200
