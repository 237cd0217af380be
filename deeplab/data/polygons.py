"""Outlines drawn with labelme, or annotations in COCO's format, as a data set in VOC layout.

python -m deeplab.data.polygons --labelme_dir=drawn --voc_dir=mydata
python -m deeplab.data.polygons --coco_json=instances.json --image_dir=images --voc_dir=mydata

Class 0 is background, which is what nobody drew; `class_names.txt` in the new folder is for train.py's --class_names.
"""

import json
import logging
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from deeplab import settings
from deeplab.data.palette import IGNORE_LABEL, palette
from deeplab.errors import DataError, UsageError
from deeplab.files import write_text
from deeplab.progress import Progress
from deeplab.settings import Classes, setting

logger = logging.getLogger("deeplab")

BACKGROUND = "background"
VOID_LABELS = ("void", "ignore", "__ignore__")
"""What is drawn under these names becomes void (255)."""
_EXIF_ORIENTATION = 0x0112
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class PolygonSettings:
    """Annotations to convert."""

    labelme_dir: Path | None = setting(None, "Folder of labelme's *.json, beside their images.")
    coco_json: Path | None = setting(None, "COCO instances file: polygons, or run lengths that are not compressed.")
    image_dir: Path = setting(None, "Folder of the images that --coco_json names.")
    voc_dir: Path = setting(None, "Folder to write, in VOC layout; it must not exist.")
    val_share: float = setting(0.2, "Share of the images that is put into val, at random.", lower=0.0, upper=1.0)


SETTINGS: Classes = (PolygonSettings,)


@dataclass(frozen=True)
class Outline:
    """One object: its class, and either polygons ([x, y] in pixels) or a mask (bool [height, width])."""

    label: str
    polygons: tuple[Sequence[Sequence[float]], ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Drawing:
    """An image file and what is drawn on it, later outlines in front."""

    image: Path
    outlines: tuple[Outline, ...]


def main(argv: list[str]) -> None:
    """Annotations -> --voc_dir."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: flags alone are taken")
    chosen = settings.read(PolygonSettings)
    settings.require(chosen, "voc_dir")
    if chosen.labelme_dir is not None and chosen.coco_json is None:
        drawings = read_labelme(chosen.labelme_dir)
    elif chosen.coco_json is not None and chosen.labelme_dir is None:
        settings.require(chosen, "image_dir")
        drawings = read_coco(chosen.coco_json, chosen.image_dir)
    else:
        raise UsageError("give one of --labelme_dir and --coco_json")
    write_voc(drawings, chosen.voc_dir, chosen.val_share)


def read_labelme(folder: Path) -> list[Drawing]:
    """All *.json of a folder as labelme writes them: polygons, rectangles and circles.

    Raises:
        DataError: no such file, one that is no annotation, or a kind of shape that covers no area.
    """
    drawings = []
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        try:
            outlines = tuple(
                Outline(shape["label"], (_labelme_polygon(shape["shape_type"], shape["points"]),))
                for shape in content["shapes"]
            )
            drawings.append(Drawing(path.parent / content["imagePath"].replace("\\", "/"), outlines))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not an annotation of labelme ({type(error).__name__}: {error})") from error
    if not drawings:
        raise DataError(f"{folder}: no *.json in it")
    return drawings


def _labelme_polygon(kind: str, points: list[list[float]]) -> list[list[float]]:
    if kind == "polygon" and len(points) >= 3:
        return points
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return [[left, top], [right, top], [right, bottom], [left, bottom]]
    if kind == "circle" and len(points) == 2:  # its centre, and a point on it
        centre, radius = np.array(points[0]), float(np.linalg.norm(np.array(points[0]) - np.array(points[1])))
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        return (centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).tolist()
    raise ValueError(f"shape {kind!r} of {len(points)} points; polygons, rectangles and circles are read")


def read_coco(path: Path, image_dir: Path) -> list[Drawing]:
    """The images of a COCO instances file with their annotations: polygons, and run lengths that are not compressed.

    Smaller objects lie in front of larger ones, since COCO knows no order.

    Raises:
        DataError: not such a file, or compressed run lengths.
    """
    content = _read_json(path)
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        outlines: dict[int, list[tuple[float, Outline]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            outline = _coco_outline(names[annotation["category_id"]], annotation["segmentation"])
            outlines[annotation["image_id"]].append((float(annotation["area"]), outline))
        return [
            Drawing(
                image_dir / image["file_name"],
                tuple(outline for _, outline in sorted(outlines[image["id"]], key=lambda item: -item[0])),
            )
            for image in content["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not COCO's instances ({type(error).__name__}: {error})") from error


def _coco_outline(label: str, segmentation: Any) -> Outline:  # noqa: ANN401  JSON
    if isinstance(segmentation, list):
        return Outline(label, tuple(np.reshape(polygon, (-1, 2)).tolist() for polygon in segmentation))
    if not isinstance(segmentation["counts"], list):
        raise ValueError("compressed run lengths; write them as lists, as COCO's own files have them")
    height, width = segmentation["size"]
    lengths = segmentation["counts"]  # of 0 and 1 in turns, column by column
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return Outline(label, mask=flat.reshape(width, height).T)


def write_voc(drawings: list[Drawing], voc_dir: Path, val_share: float, seed: int = 0) -> None:
    """Writes images, masks, split lists and class names below `voc_dir`, which is whole or absent.

    A random `val_share` of the images is val, at least one and not all. JPEGs are copied as they are, unless EXIF says
    that they are to be turned: annotation tools show them turned. Other pictures become JPEGs.

    Raises:
        UsageError: `voc_dir` exists.
        DataError: an image is missing, unreadable, or has another's name.
    """
    if voc_dir.exists():
        raise UsageError(f"--voc_dir={voc_dir}: exists already; name another folder, or delete it")
    labels = {outline.label for drawing in drawings for outline in drawing.outlines}
    class_names = [BACKGROUND, *sorted(labels - {BACKGROUND, *VOID_LABELS})]
    indices = {name: index for index, name in enumerate(class_names)} | dict.fromkeys(VOID_LABELS, IGNORE_LABEL)
    names = [drawing.image.stem for drawing in drawings]
    if len(names) < 2:
        raise DataError(f"{len(names)} images: two are needed, one to train on and one to validate")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{name}: two images have this name")
    partial = voc_dir.with_name(voc_dir.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (partial / folder).mkdir(parents=True)
    progress = Progress("writing masks", len(drawings), "masks")
    for number, drawing in enumerate(drawings, 1):
        name = drawing.image.stem
        size = _write_image(drawing.image, partial / "JPEGImages" / f"{name}.jpg")
        mask = draw_mask(drawing, size, indices)
        mask.putpalette(palette().tobytes())
        mask.save(partial / "SegmentationClass" / f"{name}.png")
        progress.update(number)
    progress.close()
    random.Random(seed).shuffle(names)
    num_val = min(max(round(val_share * len(names)), 1), len(names) - 1)
    for split, members in (("val", names[:num_val]), ("train", names[num_val:])):
        text = "".join(f"{name}\n" for name in sorted(members))
        write_text(partial / "ImageSets" / "Segmentation" / f"{split}.txt", text)
    write_text(partial / "class_names.txt", "".join(f"{name}\n" for name in class_names))
    partial.rename(voc_dir)
    logger.info("%s: %d to train, %d to validate; %s", voc_dir, len(names) - num_val, num_val, ", ".join(class_names))


def draw_mask(drawing: Drawing, size: tuple[int, int], indices: dict[str, int]) -> Image.Image:
    """Class indices, mode L, of size (width, height)."""
    mask = Image.new("L", size, 0)
    for outline in drawing.outlines:
        index = indices[outline.label]
        if outline.mask is not None:
            if outline.mask.shape != size[::-1]:
                raise DataError(f"{drawing.image}: {size[0]}x{size[1]} pixels, its run lengths are of another size")
            mask.paste(index, mask=Image.fromarray(outline.mask))
        for polygon in outline.polygons:
            ImageDraw.Draw(mask).polygon([(x, y) for x, y in polygon], fill=index)
    return mask


def _write_image(source: Path, target: Path) -> tuple[int, int]:
    """Copies or converts; returns (width, height)."""
    try:
        with Image.open(source) as image:
            if image.format == "JPEG" and image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
                shutil.copyfile(source, target)
                return image.size
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.save(target, quality=_JPEG_QUALITY)
            return upright.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{source}: cannot be read as an image: {error}") from error


def _read_json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error


if __name__ == "__main__":
    from deeplab.program.run import run

    run(main, SETTINGS, __doc__)
