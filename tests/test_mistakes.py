"""Every mistake with train.py ends in one line and a status; and --help does not."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import write_mask
from forked import HANGS, ROOT, run
from PIL import Image
from small_run import TRAIN_FLAGS, assert_one_line

pytestmark = pytest.mark.slow

MISTAKES = {
    # name: (flags after those of a good run, exit status, last line)
    "unknown flag": (["--bach_size=3"], 2, "Unknown command line flag 'bach_size'"),
    "mistyped flag": (["--learning_rat=3"], 2, "'learning_rat'. Did you mean: learning_rate"),
    "profiled steps": (["--profile_steps=9,3"], 2, "--profile_steps=9,3: a first and a last step"),
    "value of a wrong kind": (["--crop_size=many"], 2, "--crop_size=many"),
    "value out of range": (["--hue=2"], 2, "--hue=2"),
    "stray argument": (["VOC2012"], 2, "unexpected argument 'VOC2012'"),
    "both lengths": (["--epochs=2"], 2, "--train_steps and --epochs"),
    "too many GPUs": (["--num_gpus=99", "--num_cpu_replicas=1"], 2, "--num_gpus=99: TensorFlow sees"),
    "batch that does not divide": (["--global_batch_size=5"], 2, "--global_batch_size=5.*use 4 or 6"),
    "no such split": (["--train_split=trian"], 1, r"trian.txt: no such split; found: train, val"),
    "no such weights": (
        ["--backbone=mobilenet_v2", "--backbone_weights=/nowhere.h5"],
        1,
        "--backbone_weights=/nowhere.h5",
    ),
    "no such class names": (["--class_names=/nowhere.txt"], 1, "/nowhere.txt: no such file"),
    "no such VOC folder": (["--voc_dir=/nowhere"], 1, "no such split; no list files in /nowhere"),
    "RGB mask": ("rgb", 1, r"a\.png: contains colours.*`NAME: #000000`"),
    "label without a class": ("label", 1, r"a\.png: label 21, but there are 21 classes"),
    "masks of 0 and 255": ("255", 1, "the masks hold only 0 and 255.*`background: 0` and `NAME: 255`"),
    "mask of another size": ("size", 1, r"a\.png: 30x19 pixels, its image a\.jpg is 30x20"),
    "missing mask": ("no mask", 1, r"a\.png: missing"),
    "missing image": ("no image", 1, r"a\.jpg: missing"),
    "unreadable JPEG": ("jpeg", 1, r"a\.jpg: cannot be read as an image"),
    "unreadable PNG": ("png", 1, r"a\.png: cannot be read as an image"),
}


def _damage(voc_dir, kind):
    image, mask = voc_dir / "JPEGImages" / "a.jpg", voc_dir / "SegmentationClass" / "a.png"
    if kind == "rgb":
        Image.new("RGB", (30, 20)).save(mask)
    elif kind == "label":
        write_mask(mask, np.full((20, 30), 21))
    elif kind == "255":
        for each in mask.parent.iterdir():
            write_mask(each, np.repeat([[0, 255]], 20, 0).repeat(15, 1))
    elif kind == "size":
        write_mask(mask, np.zeros((19, 30)))
    elif kind == "no mask":
        mask.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "jpeg":
        image.write_bytes(image.read_bytes()[:200])
    else:
        mask.write_bytes(mask.read_bytes()[:60])


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_a_status(tmp_path, name):
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "voc" / part).mkdir(parents=True)
    for image in "ab":
        Image.new("RGB", (30, 20), "teal").save(tmp_path / "voc" / "JPEGImages" / f"{image}.jpg")
        write_mask(tmp_path / "voc" / "SegmentationClass" / f"{image}.png", np.repeat([[0, 2]], 20, 0).repeat(15, 1))
    for split in ("train", "val"):
        (tmp_path / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\nb\n")
    flags, status, line = MISTAKES[name]
    if isinstance(flags, str):
        _damage(tmp_path / "voc", flags)
        flags = []
    places = (f"--voc_dir={tmp_path}/voc", f"--tfrecord_dir={tmp_path}/shards", f"--model_dir={tmp_path}/run")
    done = run("train.py", *places, *TRAIN_FLAGS, *flags, expect=status)
    assert not set(tmp_path.glob("run/*")) - {tmp_path / "run" / ".lock"}  # the next attempt may use another model
    assert_one_line(done, f"^train.py: .*{line}")


@pytest.mark.parametrize("program", [["train.py"], ["eval.py"], ["-m", "deeplab.predict"]])
def test_help_is_not_an_error(program):
    """Started without what the other tests have imported before."""
    command = [sys.executable, *program, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS, check=True)
    assert re.search(r"^  --model_dir\n +Folder of the run", done.stdout, re.MULTILINE)
