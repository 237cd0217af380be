"""A small synthetic data set in VOC layout, for running the program without real data.

Its classes, listed in class_names.txt, are background and five textured shapes; every object has a void border, as in
VOC. The same seed gives the same files. `python -m deeplab.data.shapes FOLDER` writes it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deeplab.errors import DeepLabError
from deeplab.files import atomic_folder
from deeplab.labels import VOID_LABEL, palette
from deeplab.progress import Progress

SIZE = 128
_COLORS = {
    "triangle": (200, 60, 60),
    "disc": (70, 90, 210),
    "bar": (60, 170, 80),
    "square": (220, 190, 60),
    "ring": (180, 80, 190),
}
CLASS_NAMES = ("background", *_COLORS)


def write_shapes(voc_dir: Path, num_train: int = 240, num_val: int = 60, seed: int = 0) -> None:
    """Writes `num_train` + `num_val` images of about SIZE x SIZE pixels to `voc_dir`; does nothing if it exists.

    Sizes vary by up to an eighth, so that nothing downstream relies on a fixed size. JPEG quality is 92.
    """
    if voc_dir.exists():
        return
    progress = Progress("drawing shapes", num_train + num_val, "images")
    names = [f"shapes_{index:04d}" for index in range(num_train + num_val)]
    with atomic_folder(voc_dir) as partial:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (partial / folder).mkdir(parents=True)
        for index, name in enumerate(names):
            image, mask = draw_example(np.random.default_rng((seed, index)))
            image.save(partial / "JPEGImages" / f"{name}.jpg", quality=92)
            mask.save(partial / "SegmentationClass" / f"{name}.png")
            progress.update(index + 1)
        progress.close()
        for split, members in (("train", names[:num_train]), ("val", names[num_train:])):
            (partial / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(members) + "\n")
        (partial / "class_names.txt").write_text("\n".join(CLASS_NAMES) + "\n")


def draw_example(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """One RGB image and its palettized mask: one to three objects, later ones in front."""
    width, height = (int(side) for side in rng.integers(SIZE - SIZE // 8, SIZE + SIZE // 8 + 1, 2))
    image = _texture(rng, (width, height), rng.integers(60, 200, 3))
    mask = Image.new("L", (width, height), 0)
    for _ in range(rng.integers(1, 4)):
        shape = str(rng.choice(CLASS_NAMES[1:]))
        outline = Image.new("L", (width, height), 0)
        _draw_shape(ImageDraw.Draw(outline), rng, shape, width, height)
        image.paste(_texture(rng, (width, height), np.array(_COLORS[shape])), mask=outline)
        border = outline.filter(ImageFilter.MaxFilter(3))
        mask.paste(VOID_LABEL, mask=border)
        mask.paste(CLASS_NAMES.index(shape), mask=outline.filter(ImageFilter.MinFilter(3)))
    mask.putpalette(palette().tobytes())
    return image, mask


def _draw_shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, shape: str, width: int, height: int) -> None:
    radius = int(rng.integers(SIZE // 7, SIZE // 4))
    x = int(rng.integers(radius, width - radius))
    y = int(rng.integers(radius, height - radius))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=255)
    elif shape == "disc":
        draw.ellipse(box, fill=255)
    elif shape == "bar":
        draw.rectangle((x - radius // 3, y - radius, x + radius // 3, y + radius), fill=255)
    elif shape == "square":
        draw.rectangle(box, fill=255)
    else:
        draw.ellipse(box, outline=255, width=max(radius // 2, 8))


def _texture(rng: np.random.Generator, size: tuple[int, int], color: np.ndarray) -> Image.Image:
    """Noise of two scales around a color."""
    width, height = size
    coarse = rng.normal(0, 30, (height // 8 + 1, width // 8 + 1, 1)).repeat(8, 0).repeat(8, 1)[:height, :width]
    fine = rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(color + coarse + fine, 0, 255).astype(np.uint8))


def command() -> None:
    """The program as `python -m deeplab.data.shapes` starts it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m deeplab.data.shapes FOLDER")
    try:
        write_shapes(Path(sys.argv[1]))
    except (DeepLabError, OSError) as error:
        sys.exit(f"deeplab.data.shapes: {error}")
