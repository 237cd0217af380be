"""One record: what an image and its mask become."""

import numpy as np
from PIL import Image

from deeplab.data.shards import records
from deeplab.data.source import voc
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.masks import read_mask

CLASSES = ClassTable.of_names(("background", "one", "two"))


def test_grayscale_and_cmyk_images_are_read_as_rgb(tiny_voc):
    """Against Pillow's own conversion; TensorFlow's inverse cosine transform is the faster, less exact one."""
    image = Image.open(tiny_voc / "JPEGImages" / "a.jpg")
    for mode in ("L", "CMYK"):
        path = tiny_voc / "JPEGImages" / "b.jpg"
        image.convert(mode).save(path, quality=95)
        pair = voc.Pair("b", str(path), str(tiny_voc / "SegmentationClass" / "b.png"))
        (encoded,) = records.encode_examples(pair, records.Form(CLASSES))
        record = encoded.record
        decoded, _ = records.decode_example(records.parse_example(record))
        expected = np.asarray(Image.open(path).convert("RGB"), np.int32)
        assert np.abs(decoded.numpy() - expected).max() <= 8


def test_void_is_no_foreign_label(tiny_voc):
    mask = read_mask(tiny_voc / "SegmentationClass" / "a.png", CLASSES)
    assert set(np.unique(mask.labels)) == {0, 1, 2, 255}
