"""Pictures to segment: how they are read and put into batches."""

from PIL import Image

from deeplab import predict


def test_images_are_read_as_rgb_and_rotated_according_to_exif(tmp_path):
    Image.new("CMYK", (3, 2)).save(tmp_path / "cmyk.jpg")
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view it upright
    Image.new("RGB", (3, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert predict.read_image(tmp_path / "cmyk.jpg").shape == (2, 3, 3)
    assert (predict.read_image(tmp_path / "grey.png") == 9).all()
    assert predict.read_image(tmp_path / "turned.jpg").shape == (3, 2, 3)
