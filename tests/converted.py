"""Converts annotations in tests as `deeplab.data.convert` does."""

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
    folder = tmp_path / "voc" / "SegmentationClass"
    return {str(path.relative_to(folder).with_suffix("")): np.array(Image.open(path)) for path in folder.rglob("*.png")}
