"""Common mistakes and how the programs respond: a table of cases, each run as a user would.

python bench/checks/bad_inputs.py [WORD] > docs/bad_inputs.md        (with WORD: only cases with it in their name)

A case names the mistake, the expected exit status and a part of the expected last line. Exit status 1 if any case ends
otherwise, or with a traceback.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.data.shards.split import Split
from deeplab.data.source import shapes
from deeplab.files import locked

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=2"),
    *("--train_steps=2", "--checkpoint_steps=1", "--num_shards=2"),
)
PLACES = ("--voc_dir={0}/voc", "--tfrecord_dir={0}/shards", "--model_dir={0}/run")
EVAL = ("--model_dir={0}/run", "--tfrecord_dir={0}/shards", "--num_gpus=0")
OK = ""
TWO = "background: 0\nobject: 255\n"
RED = "background: #000000\nobject: #ff0000\n"
SIXTEEN_BITS = Image.fromarray(np.full((128, 128), 300, np.uint16))
FLOATS = Image.fromarray(np.ones((128, 128), np.float32))


@dataclass(frozen=True)
class Case:
    """`damage` gets the folder with voc/ and, if `trained`, shards/ and run/."""

    name: str
    status: int
    line: str
    flags: tuple[str, ...] = ()
    damage: Callable[[Path], object] = lambda folder: None
    program: tuple[str, ...] = ("train.py", *PLACES, *SMALL)
    trained: bool = False
    environment: tuple[tuple[str, str], ...] = ()


def mask(folder: Path) -> Path:
    """One of the masks of train."""
    return folder / "voc" / "SegmentationClass" / "shapes_0000.png"


def image(folder: Path) -> Path:
    """The image of that mask."""
    return folder / "voc" / "JPEGImages" / "shapes_0000.jpg"


def split(content: bytes) -> Callable[[Path], object]:
    """Writes the list of train."""
    return lambda folder: (folder / "voc" / "ImageSets" / "Segmentation" / "train.txt").write_bytes(content)


def names(content: str) -> Callable[[Path], object]:
    """Writes names.txt, a list of classes."""
    return lambda folder: (folder / "names.txt").write_text(content)


def weights_file(content: str) -> tuple[tuple[str], Callable[[Path], object]]:
    """Writes weights.txt, and the flag that names it."""
    return ("--class_weights={0}/weights.txt",), lambda folder: (folder / "weights.txt").write_text(content)


def saved(picture: Image.Image, where: Callable[[Path], Path], **options: str) -> Callable[[Path], object]:
    """Replaces an image or mask by a picture."""
    return lambda folder: picture.save(where(folder), **options)


def cut(path: Callable[[Path], Path], size: int) -> Callable[[Path], object]:
    """Keeps only the first bytes of a file."""
    return lambda folder: path(folder).write_bytes(path(folder).read_bytes()[:size])


def flip(path: Callable[[Path], Path], place: float) -> Callable[[Path], object]:
    """Flips a bit at a fraction of the file's length."""

    def damage(folder: Path) -> None:
        content = bytearray(path(folder).read_bytes())
        content[int(place * len(content))] ^= 4
        path(folder).write_bytes(content)

    return damage


def png(width: int, height: int, bit_depth: int, rows: bytes) -> bytes:
    """A greyscale PNG, assembled according to its specification."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    chunks.append((b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bomb_jpeg(folder: Path) -> None:
    """A JPEG whose header claims 65000x65000 pixels."""
    content = bytearray(image(folder).read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65000, 65000)
    image(folder).write_bytes(content)


def masks_of_255(folder: Path) -> None:
    """Masks of 0 and 255, as drawing programs write them for two classes."""
    for path in mask(folder).parent.iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)


def four_bits(folder: Path) -> None:
    """Class 1 everywhere, in four bits per pixel."""
    width, height = Image.open(mask(folder)).size
    mask(folder).write_bytes(png(width, height, 4, (b"\0" + b"\x11" * ((width + 1) // 2)) * height))


def turned(folder: Path) -> None:
    """An image that EXIF rotates, and a mask that was drawn on the rotated view."""
    picture = Image.open(image(folder)).resize((120, 100))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(image(folder), exif=exif)
    Image.new("L", (100, 120)).save(mask(folder))


def linked(folder: Path) -> None:
    """An image in another folder, behind a link."""
    shutil.move(image(folder), folder / "elsewhere.jpg")
    image(folder).symlink_to(folder / "elsewhere.jpg")


def folder_for_image(folder: Path) -> None:
    """A folder with the image's name."""
    image(folder).unlink()
    image(folder).mkdir()


def no_annotation(folder: Path) -> None:
    """A file with a name like SBD's, but other content."""
    (folder / "cls").mkdir()
    (folder / "cls" / "new.mat").write_bytes(b"MATLAB 5.0" * 50)


def other_mode(mode: str) -> Callable[[Path], object]:
    """The image in greyscale or CMYK."""
    return lambda folder: Image.open(image(folder)).convert(mode).save(image(folder))


def all_of(*damages: Callable[[Path], object]) -> Callable[[Path], object]:
    """Several, one after the other."""
    return lambda folder: [damage(folder) for damage in damages]


def table_cases(*cases: tuple[str, str, str]) -> list["Case"]:
    """(name, part of the line, content) of files of classes that are refused."""
    flags = ("--class_names={0}/names.txt",)
    return [Case(name, 1, line, flags, names(content)) for name, line, content in cases]


def masks_of_colors(folder: Path) -> None:
    """Masks of black and red."""
    for path in mask(folder).parent.iterdir():
        objects = np.array(Image.open(path)) > 0
        Image.fromarray(objects[..., None] * np.array([255, 0, 0], np.uint8)).save(path)


def smoothed_mask(folder: Path) -> None:
    """The same, but one mask was shrunk and enlarged again by a photo editor."""
    masks_of_colors(folder)
    picture = Image.open(mask(folder))
    picture.resize((60, 60), Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BILINEAR).save(
        mask(folder)
    )


def other_palette(folder: Path) -> None:
    """One mask whose palette is ordered differently from the others."""
    picture = Image.open(mask(folder))
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(mask(folder))


def upside_down(folder: Path) -> None:
    """An image that EXIF turns by 180 degrees."""
    picture = Image.open(image(folder))
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(image(folder), exif=exif)


def corrected(folder: Path) -> None:
    """A mask with other contents but the same size and times."""
    times = mask(folder).stat()
    content = bytearray(mask(folder).read_bytes())
    content[-5] ^= 1
    mask(folder).write_bytes(content)
    os.utime(mask(folder), ns=(times.st_atime_ns, times.st_mtime_ns))


def renamed(path: Callable[[Path], Path], name: str) -> Callable[[Path], object]:
    """Gives a file another name."""
    return lambda folder: path(folder).rename(path(folder).with_name(name))


def saved_as(format: str) -> Callable[[Path], object]:
    """The image in another format, under its old name."""
    return lambda folder: Image.open(image(folder)).convert("RGB").save(image(folder), format)


def same_stem(folder: Path) -> Path:
    """A second image with the same stem."""
    return image(folder).with_suffix(".png")


def shard(folder: Path) -> Path:
    """A shard of train."""
    return folder / "shards" / "train-00000-of-00002.tfrecord"


def manifest(folder: Path) -> Path:
    """The manifest of train."""
    return folder / "shards" / "train.json"


def edited(**changes: object) -> Callable[[Path], object]:
    """Writes other values into the manifest without updating its checksum."""
    return lambda folder: manifest(folder).write_text(
        json.dumps({**json.loads(manifest(folder).read_text()), **changes})
    )


def elsewhere(folder: Path) -> None:
    """A manifest with a correct checksum that names shards outside its folder."""
    found = Split.read(folder / "shards", "train")
    outside = tuple(replace(each, name=f"../shards/{each.name}") for each in found.shards)
    replace(found, shards=outside).write()


def foreign_name(folder: Path) -> None:
    """Shards with a matching manifest whose examples are named ../../escaped."""
    found = Split.read(folder / "shards", "val")
    sizes = []
    for path in map(Path, found.shard_paths):
        examples = [
            tf.train.Example.FromString(each) for each in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        ]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for example in examples:
                example.features.feature["id"].bytes_list.value[0] = b"../../escaped"
                writer.write(example.SerializeToString())
        sizes.append(path.stat().st_size)
    shards = tuple(replace(each, num_bytes=size) for each, size in zip(found.shards, sizes, strict=True))
    replace(found, shards=shards).write()


def newest(ending: str) -> Callable[[Path], Path]:
    """A file of the newest checkpoint."""
    return lambda folder: folder / "run" / "checkpoints" / "latest" / f"ckpt-2.{ending}"


def all_checkpoints(folder: Path) -> None:
    """Truncates every index."""
    for path in (folder / "run" / "checkpoints" / "latest").glob("*.index"):
        path.write_bytes(path.read_bytes()[:50])


FLAGS_CASES = (
    Case("no flags", 2, "--tfrecord_dir is needed", program=("train.py",)),
    Case("mistyped flag", 2, "Did you mean", ("--learing_rate=1",)),
    Case("flag with a value of the wrong type", 2, "--crop_size=many", ("--crop_size=many",)),
    Case("flag out of range", 2, "--hue=2", ("--hue=2",)),
    Case("unknown value", 2, "--loss=mse", ("--loss=mse",)),
    Case("stray argument", 2, "unexpected argument 'VOC2012'", ("VOC2012",)),
    Case("missing flag file", 2, "nowhere.flags", ("--flagfile=nowhere.flags",)),
    Case("two training lengths", 2, "give one of them", ("--epochs=3",)),
    Case("scales the wrong way round", 2, "larger than --max_scale", ("--min_scale=3",)),
    Case(
        "resize below the crop",
        2,
        "smaller than --crop_size",
        ("--augmentation=resize_or_crop", "--resize_size=40"),
    ),
    Case(
        "smoothing without cross-entropy", 2, "which --loss=dice leaves out", ("--loss=dice", "--label_smoothing=0.1")
    ),
    Case("two factors of multi-grid", 2, "three numbers are needed", ("--multi_grid=1,2",)),
    Case("multi-grid in words", 2, "whole numbers from 1 to 100", ("--multi_grid=a,b,c",)),
    Case("separable decoder without a decoder", 2, "needs --decoder", ("--separable_decoder",)),
    Case("class weights for too few classes", 2, "one number, 0 or more, is needed", ("--class_weights=1,2",)),
    Case("class weights in a missing file", 2, "there is no such file", ("--class_weights=nowhere.txt",)),
    Case("class weights in another order", 2, "the order is that of the classes", *weights_file("disc 1\n")),
    Case("class weights that are not numbers", 2, "numbers are needed", *weights_file("many\n")),
    Case("unknown class to repeat", 2, "no class 'yeti'", ("--repeat_classes=yeti",)),
    Case("multi-grid on MobileNet", 2, "has no multi-grid units", ("--multi_grid=1,2,4",)),
    Case("odd rates at stride 32", 2, "use even rates", ("--output_stride=32", "--atrous_rates=3,6,9")),
    Case("more GPUs than there are", 2, "TensorFlow sees", ("--num_gpus=99",)),
    Case("GPUs and CPU replicas", 2, "--num_gpus=", ("--num_gpus=1", "--num_cpu_replicas=2")),
    Case("batch that does not divide", 2, "use 2 or 4", ("--global_batch_size=3", "--num_cpu_replicas=2")),
    Case("micro-batches that do not divide", 2, "micro-batches each; use", ("--accumulate_steps=3",)),
    Case("XLA on the CPU", 2, "only on GPUs", ("--jit_compile",)),
    Case("one device of two", 2, "for one GPU or one CPU", ("--strategy=one_device", "--num_cpu_replicas=2")),
    Case("several workers without a cluster", 2, "neither TF_CONFIG nor srun", ("--strategy=multi_worker",)),
    Case("TF_CONFIG that is not JSON", 2, "TF_CONFIG: not a cluster", environment=(("TF_CONFIG", "{worker"),)),
    Case("srun without names", 2, "SLURM_", environment=(("SLURM_STEP_NUM_TASKS", "2"),)),
    Case("download to nowhere", 2, "--download needs --voc_dir", ("--download", "--voc_dir=")),
    Case("voc_url that is not an address", 2, "not the address of an archive", ("--download", "--voc_url=VOC.tar")),
    Case("missing weights", 1, "--backbone_weights=/nowhere.h5", ("--backbone_weights=/nowhere.h5",)),
    Case(
        "weights of another network",
        1,
        "no tensor features.0.0.weight for Conv1",
        ("--backbone_weights=tests/golden/weights.pth",),
    ),
    Case(
        "weights in PyTorch's old form",
        1,
        "convert it where PyTorch is installed",
        ("--backbone_weights=tests/golden/weights_legacy.pth",),
    ),
    Case("start from a folder without a run", 1, "is this the folder of a run", ("--init_checkpoint=/nowhere",)),
    Case("run folder that is a file", 1, "File exists", ("--model_dir={0}/voc/ImageSets/Segmentation/train.txt",)),
    Case("run folder that cannot be written", 1, "/proc", ("--model_dir=/proc/deeplab",)),
    Case("run folder in a bucket", 2, "not a local path", ("--model_dir=gs://bucket/run",)),
    Case("data in a bucket", 2, "not a local path", ("--voc_dir=s3://bucket/VOC2012",)),
)
DATA_CASES = (
    Case("no VOC folder", 1, "is --voc_dir right?", ("--voc_dir=/nowhere",)),
    Case("no such split", 1, "no such split; found: train, val", ("--train_split=trian",)),
    Case("empty split", 1, "the split is empty", damage=split(b"\n\n")),
    Case("duplicate name", 1, "duplicate name", damage=split(b"shapes_0000\nshapes_0000\n")),
    Case("name with ../", 1, "not a plain file name", damage=split(b"../../etc/passwd\n")),
    Case("absolute name", 1, "not a plain file name", damage=split(b"/etc/passwd\n")),
    Case("name with a NUL", 1, "a null character", damage=split(b"a\0b\n")),
    Case("split that is not text", 1, "cannot be read (split)", damage=split(b"\xff\xfe\x00\xd8")),
    Case("split in GBK", 1, "it would be '道路' in GBK", damage=split("道路\n".encode("gbk"))),
    Case("missing class file", 1, "no such file (class names)", ("--class_names=/nowhere.txt",)),
    Case("no class name", 1, "no class names", ("--class_names={0}/names.txt",), names("\n")),
    Case("duplicate class", 1, "duplicate class name", ("--class_names={0}/names.txt",), names("a\nb\na\n")),
    Case("empty line among classes", 1, "line 2 is empty", ("--class_names={0}/names.txt",), names("a\n\nb\n")),
    Case("256 classes", 1, "at most 255", ("--class_names={0}/names.txt",), names("\n".join(map(str, range(256))))),
    Case("fewer classes than labels", 1, "but there are 2 classes", ("--class_names={0}/names.txt",), names("a\nb\n")),
    *table_cases(
        ("a table with a comment", "line 2: '# dog: 1'", "background: 0\n# dog: 1\n"),
        ("a table with a line of names", "line 2: 'dog' has no value", "background: 0\ndog\n"),
        ("a table with a value twice", "lines 1 and 2 both have 0", "background: 0\ndog: 0\n"),
        ("a table with values and colours", "has values and colours", "background: 0\ndog: #ff0000\n"),
        ("a table with a colour in words", "'red' is neither a value", "background: #000000\ndog: red\n"),
        ("a labelmap with a broken line", "line 2: 'dog:255,0::'", "background:0,0,0::\ndog:255,0::\n"),
        ("names with a colon", "the colon in line 2, 'dog: wet'", "background\ndog: wet\n"),
        ("names with commas", "line 1: 'background, dog' is not a class name", "background, dog\n"),
        ("names with numbers", "begins with a number", "0 background\n1 dog\n"),
        ("a table that leaves out values", "without a class", "background: 0\ndog: 9\n"),
    ),
    Case("masks of 0 and 255", 1, "the masks hold only 0 and 255", damage=masks_of_255),
    Case("masks of 0 and 255, by a table", 0, OK, ("--class_names={0}/names.txt",), all_of(masks_of_255, names(TWO))),
    Case(
        "RGB mask",
        1,
        "contains colours, but the classes are plain names",
        damage=saved(Image.new("RGB", (128, 128)), mask),
    ),
    Case("masks of colours, by a table", 0, OK, ("--class_names={0}/names.txt",), all_of(masks_of_colors, names(RED))),
    Case("masks with smoothed edges", 1, "others", ("--class_names={0}/names.txt",), all_of(smoothed_mask, names(RED))),
    Case("masks whose palettes disagree", 1, "palette index", damage=other_palette),
    Case("mask with alpha, of another size", 1, "its image", damage=saved(Image.new("LA", (128, 128)), mask)),
    Case("1-bit mask, of another size", 1, "its image", damage=saved(Image.new("1", (128, 128)), mask)),
    Case("4-bit greyscale mask", 1, "mode L, 4 bits", damage=four_bits),
    Case(
        "GIF mask", 1, "whose indices programs renumber", damage=saved(Image.new("P", (128, 128)), mask, format="GIF")
    ),
    Case("16-bit mask of larger values", 1, "value 300 in a mask of", damage=saved(SIXTEEN_BITS, mask)),
    Case("label without a class", 1, "label 21", damage=saved(Image.new("L", (128, 128), 21), mask)),
    Case("mask of another size", 1, "its image shapes_0000.jpg is", damage=saved(Image.new("L", (9, 9)), mask)),
    Case("missing mask", 1, "missing; the folder holds", damage=lambda folder: mask(folder).unlink()),
    Case(
        "mask of another name", 1, "found instead: shapes_0000_mask.png", damage=renamed(mask, "shapes_0000_mask.png")
    ),
    Case("mask cut short", 1, "cannot be read as an image", damage=cut(mask, 300)),
    Case("mask with a flipped bit", 1, "cannot be read as an image", damage=flip(mask, 0.9)),
    Case(
        "mask that is a JPEG", 1, "a JPEG, which changes", damage=saved(Image.new("L", (128, 128)), mask, format="JPEG")
    ),
    Case(
        "mask that claims 60000x60000",
        1,
        "cannot be read as an image",
        damage=lambda f: mask(f).write_bytes(png(60000, 60000, 8, b"")),
    ),
    Case("missing image", 1, "missing; the folder holds", damage=lambda folder: image(folder).unlink()),
    Case("image in two formats", 1, "keep only one of them", damage=saved(Image.new("RGB", (9, 9)), same_stem)),
    Case("image cut short", 1, "unreadable JPEG", damage=cut(image, 2000)),
    Case("empty image file", 1, "cannot be read as an image", damage=cut(image, 0)),
    Case("image that is a PNG", 0, OK, damage=saved_as("PNG")),
    Case("image that is a TIFF", 0, OK, damage=saved_as("TIFF")),
    Case("image called .JPG", 0, OK, damage=renamed(image, "shapes_0000.JPG")),
    Case("16-bit image", 1, "16 bits per channel", damage=saved(SIXTEEN_BITS, image, format="PNG")),
    Case("image of floating-point numbers", 1, "32-bit floating-point", damage=saved(FLOATS, image, format="TIFF")),
    Case("image that claims 65000x65000", 1, "cannot be read as an image", damage=bomb_jpeg),
    Case("folder instead of an image", 1, "cannot be read", damage=folder_for_image),
    Case("EXIF turns the image, the mask was drawn turned", 0, OK, damage=turned),
    Case("EXIF turns the image upside down", 1, "--exif=turn", damage=upside_down),
    Case("the same, --exif=turn", 0, OK, ("--exif=turn",), upside_down),
    Case("list of names with endings", 0, OK, damage=split(b"shapes_0000.jpg\nshapes_0001.jpg\n")),
    Case("list with a column of numbers", 1, "line 1: 2 columns", damage=split(b"shapes_0000 1\nshapes_0001 1\n")),
    Case("list with a comment", 1, "line 1: '# mine': comments", damage=split(b"# mine\nshapes_0000\n")),
    Case("list in UTF-16", 0, OK, damage=split("shapes_0000\nshapes_0001\n".encode("utf-16"))),
    Case("one bad example, and one allowed", 0, OK, ("--max_bad_examples=1",), cut(mask, 300)),
    Case("greyscale image", 0, OK, damage=other_mode("L")),
    Case("CMYK image", 0, OK, damage=other_mode("CMYK")),
    Case("image behind a link", 0, OK, damage=linked),
)
TRAIN_AGAIN = ("train.py", "--tfrecord_dir={0}/shards", "--model_dir={0}/run", *SMALL, "--train_steps=3")
SHARD_CASES = (
    Case("no shards", 1, "no such manifest", ("--voc_dir=",)),
    Case("manifest cut short", 1, "not a manifest", (), cut(manifest, 400), TRAIN_AGAIN, True),
    Case("manifest with another number", 1, "checksum mismatch", (), edited(num_examples=7), TRAIN_AGAIN, True),
    Case("manifest of another format", 1, "format 1, this program", (), edited(format_version=1), TRAIN_AGAIN, True),
    Case("manifest that is a list", 1, "not a manifest", (), lambda f: manifest(f).write_text("[]"), TRAIN_AGAIN, True),
    Case("manifest of shards elsewhere", 1, "in another folder", (), elsewhere, TRAIN_AGAIN, True),
    Case("missing shard", 1, "missing, though train.json", (), lambda f: shard(f).unlink(), TRAIN_AGAIN, True),
    Case("shard cut short", 1, "bytes, train.json says", (), cut(shard, 5000), TRAIN_AGAIN, True),
    Case("shard with a flipped bit", 1, "damaged at record", (), flip(shard, 0.5), TRAIN_AGAIN, True),
    Case("the same, --verify", 1, "SHA-256 mismatch", ("--verify",), flip(shard, 0.5), TRAIN_AGAIN, True),
    Case(
        "shards of other files",
        1,
        "made from other files",
        damage=lambda f: saved(Image.new("L", Image.open(mask(f)).size), mask)(f),
        trained=True,
    ),
    Case("a mask corrected since, of the same size", 1, "changed since", damage=corrected, trained=True),
    Case(
        "foreign shard in the folder",
        0,
        OK,
        (),
        lambda f: shutil.copyfile(shard(f), f / "shards" / "train-00009-of-00010.tfrecord"),
        TRAIN_AGAIN,
        True,
    ),
)
RUN_CASES = (
    Case("another backbone", 2, "holds a run with", ("--backbone=resnet50",), program=TRAIN_AGAIN, trained=True),
    Case("another stride", 2, "holds a run with", ("--output_stride=8",), program=TRAIN_AGAIN, trained=True),
    Case("another optimizer", 2, "holds a run with", ("--optimizer=adam",), program=TRAIN_AGAIN, trained=True),
    Case("float16 from float32", 2, "holds a run with", ("--precision=float16",), program=TRAIN_AGAIN, trained=True),
    Case("another learning rate", 0, OK, ("--learning_rate=0.001",), program=TRAIN_AGAIN, trained=True),
    Case("two replicas after one", 0, OK, ("--num_cpu_replicas=2",), program=TRAIN_AGAIN, trained=True),
    Case("newest checkpoint damaged", 0, OK, (), cut(newest("index"), 90), TRAIN_AGAIN, True),
    Case("every checkpoint damaged", 1, "every checkpoint is damaged", (), all_checkpoints, TRAIN_AGAIN, True),
    Case(
        "model.json cut short", 1, "cannot be read", (), cut(lambda f: f / "run" / "model.json", 60), TRAIN_AGAIN, True
    ),
    Case(
        "model.json with another network",
        1,
        "cannot be read",
        (),
        lambda f: (f / "run" / "model.json").write_text('{"class_names": ["a"], "backbone": "vgg"}'),
        TRAIN_AGAIN,
        True,
    ),
    Case("run folder in use", 2, "; stop it or choose another folder", program=TRAIN_AGAIN, trained=True),
)
OTHER_CASES = (
    Case("eval: no run", 1, "is this the folder of a run", program=("eval.py", *EVAL, "--model_dir={0}"), trained=True),
    Case("eval: no such split", 1, "no such manifest", ("--split=test",), program=("eval.py", *EVAL), trained=True),
    Case(
        "eval: no such checkpoint",
        1,
        "no such checkpoint",
        ("--checkpoint=best",),
        program=("eval.py", *EVAL),
        trained=True,
    ),
    Case(
        "eval: scales in words",
        2,
        "numbers from 0.1 to 10",
        ("--scales=big",),
        program=("eval.py", *EVAL),
        trained=True,
    ),
    Case(
        "eval: example called ../../escaped",
        1,
        "not a plain file name",
        ("--output_dir={0}/out/put",),
        foreign_name,
        ("eval.py", *EVAL),
        True,
    ),
    Case(
        "predict: no image",
        2,
        "at least one image",
        program=("-m", "deeplab.predict", "--model_dir={0}/run", "--output_dir={0}/out"),
        trained=True,
    ),
    Case(
        "predict: text for an image",
        1,
        "cannot be read as an image",
        ("{0}/voc/ImageSets/Segmentation/train.txt",),
        program=("-m", "deeplab.predict", "--model_dir={0}/run", "--output_dir={0}/out"),
        trained=True,
    ),
    Case(
        "import_weights: not a DeepLab",
        1,
        "of none of the networks that can be imported",
        program=("-m", "deeplab.import_weights", "tests/golden/weights.pth", "--model_dir={0}/new"),
    ),
    Case(
        "import_weights: folder that exists",
        2,
        "exists already",
        program=("-m", "deeplab.import_weights", "tests/golden/weights.pth", "--model_dir={0}"),
    ),
    Case(
        "sbd: mask folder that exists",
        2,
        "exists already",
        program=("-m", "deeplab.data.sbd", "--sbd_dir={0}", "--voc_dir={0}/voc", "--mask_dir={0}/voc"),
    ),
    Case(
        "sbd: .mat that is not an annotation",
        1,
        "not an annotation of SBD",
        damage=no_annotation,
        program=("-m", "deeplab.data.sbd", "--sbd_dir={0}", "--voc_dir={0}/voc", "--mask_dir={0}/masks"),
    ),
)
CASES = (*FLAGS_CASES, *DATA_CASES, *SHARD_CASES, *RUN_CASES, *OTHER_CASES)


def run(case: Case, origin: Path) -> tuple[int, str, bool]:
    """Exit status, last line on stderr, and whether both are as expected."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("voc", "shards", "run") if case.trained else ("voc",):
            shutil.copytree(origin / part, folder / part)
        case.damage(folder)
        command = [sys.executable, *(flag.format(folder) for flag in (*case.program, *case.flags))]
        environment = {**os.environ, **dict(case.environment)}
        holds = locked(folder / "run") if "in use" in case.name else tempfile.TemporaryDirectory()
        with holds:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        last = done.stderr.splitlines()[-1] if done.stderr else ""
        well = done.returncode == case.status and case.line in last and "Traceback" not in done.stderr
        if list(folder.parent.glob("escaped*")):
            well = False
        return done.returncode, re.sub(re.escape(str(folder)), "...", last), well


def main() -> None:
    """The table."""
    wanted = [case for case in CASES if not sys.argv[1:] or sys.argv[1] in case.name]
    with tempfile.TemporaryDirectory() as name:
        origin = Path(name)
        shapes.write_shapes(origin / "voc", num_train=6, num_val=2)
        command = [flag.format(origin) for flag in ("train.py", *PLACES, *SMALL)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda case: run(case, origin), wanted))
    print(
        "# Bad input\n\nGenerated by `python bench/checks/bad_inputs.py > docs/bad_inputs.md`. Each row is a mistake, "
        "the exit\nstatus and the last line on stderr. `...` is the case's folder; `continues` means the program "
        "accepts it.\n"
    )
    print("| mistake | exit status | last line |\n| --- | --- | --- |")
    for case, (status, line, well) in zip(wanted, outcomes, strict=True):
        cell = line.replace("|", "\\|")[:300] if status else "continues"
        print(f"| {case.name} | {status} | {cell} |{'' if well else ' **not as expected**'}")
    failed = [case.name for case, (*_, well) in zip(wanted, outcomes, strict=True) if not well]
    print(json.dumps({"bench": "bad_inputs", "cases": len(wanted), "failed": failed}), file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
