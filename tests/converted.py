"""What the tests of annotation formats share: images to annotate, conversion, and readers of its result."""

import numpy as np
from PIL import Image

from deeplab.commands.convert import CocoSettings, ReadingSettings, SourceSettings, read
from deeplab.data.source.formats.writer import write_voc


def read_format(folder, flag, name, image_dir=None, **reading):
    """The data set that a flag names."""
    return read(SourceSettings(**{flag: folder / name}), ReadingSettings(**reading), CocoSettings(image_dir=image_dir))


def masks_of(dataset, tmp_path):
    """Writes a data set to tmp_path/voc; the masks by name."""
    write_voc(dataset, tmp_path / "voc", 0.5)
    return _masks(tmp_path / "voc")


def _image(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path, **options)
    return path


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def _masks(voc_dir):
    folder = voc_dir / "SegmentationClass"
    return {str(path.relative_to(folder).with_suffix("")): np.array(Image.open(path)) for path in folder.rglob("*.png")}


def _splits(voc_dir):
    return {path.stem: path.read_text().split() for path in (voc_dir / "ImageSets" / "Segmentation").iterdir()}


def _classes(voc_dir):
    return (voc_dir / "class_names.txt").read_text().splitlines()
