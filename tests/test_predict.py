"""Pictures to segment: how they are read and put into batches."""

from PIL import Image

from deeplab import predict
from deeplab.errors import DataError


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
