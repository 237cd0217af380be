"""deeplab.predict as users start it: from folders, patterns, standard input and the evaluation server's lists."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from forked import HANGS, ROOT, run
from PIL import Image
from small_run import COLOR, COLORED, assert_one_line

from deeplab.data.source import shapes, voc
from deeplab.labels import palette

pytestmark = pytest.mark.slow


def test_predict_segments_a_folder_and_a_pattern(run_dir, shapes_dir, tmp_path):
    """Also next to the truth; a file that is not a picture is named at the end, and the others are segmented."""
    names = voc.read_split(shapes_dir, "val")[:3]
    for name, folder in zip(names, ("folder", "folder", "pattern"), strict=True):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(shapes_dir / "JPEGImages" / f"{name}.jpg", tmp_path / folder)
    (tmp_path / "folder" / "text.jpg").write_text("no picture")
    (tmp_path / "folder" / "notes.txt").write_text("left alone")
    places = [f"--model_dir={run_dir}/run", f"--output_dir={tmp_path}/predicted"]
    places.append(f"--truth_dir={shapes_dir}/SegmentationClass")
    arguments = (tmp_path / "folder", f"{tmp_path}/pattern/*.jp*g")
    done = run("-m", "deeplab.predict", *places, *arguments, expect=1)
    assert_one_line(done, r"text\.jpg: cannot be read as an image: .*; 1 of 4 images left out$")
    for name in names:
        with Image.open(shapes_dir / "JPEGImages" / f"{name}.jpg") as image:
            width, height = image.size
        pictures = {
            folder: Image.open(tmp_path / "predicted" / folder / f"{name}.png")
            for folder in ("masks", "coloured", "overlays", "side_by_side")
        }
        mask = np.array(pictures["masks"])
        assert (pictures["masks"].mode, mask.shape) == ("P", (height, width))
        np.testing.assert_array_equal(np.array(pictures["coloured"]), palette()[mask])
        assert pictures["overlays"].height > height  # the legend
        row = np.array(pictures["side_by_side"])[19 : 19 + height]  # below the heading
        assert row.shape[1] == 4 * width + 12
        truth = np.array(Image.open(shapes_dir / "SegmentationClass" / f"{name}.png"))
        for drawn, left in ((truth, width + 4), (mask, 2 * (width + 4))):
            np.testing.assert_array_equal((row[:, left : left + width] == COLOR).all(-1), drawn == COLORED)
        shares = re.search(rf"{name}\.jpg: (.*)", done.stderr).group(1)
        background = 100 * (mask == 0).mean()
        assert f"background {background:.1f}%" in shares or background == 0


def test_predict_reads_standard_input(run_dir, shapes_dir, tmp_path):
    name = voc.read_split(shapes_dir, "val")[0]
    arguments = (f"--model_dir={run_dir}/run", f"--output_dir={tmp_path}", "-")
    command = [sys.executable, "tests/tiny.py", "deeplab/predict.py", *arguments]
    with (shapes_dir / "JPEGImages" / f"{name}.jpg").open("rb") as picture:
        subprocess.run(command, cwd=ROOT, stdin=picture, check=True, timeout=HANGS)
    with Image.open(tmp_path / "masks" / "stdin.png") as mask:
        assert mask.mode == "P"


def test_predict_writes_the_evaluation_servers_format(run_dir, shapes_dir, tmp_path):
    """Index PNGs under the devkit's names (VOCinit.m: clsrespath), for images without masks."""
    voc_dir = tmp_path / "VOC2012"
    shutil.copytree(shapes_dir / "JPEGImages", voc_dir / "JPEGImages")
    names = voc.read_split(shapes_dir, "val")[:2]
    (voc_dir / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc_dir / "ImageSets" / "Segmentation" / "test.txt").write_text("\n".join(names))
    output_dir = tmp_path / "submission"
    run("-m", "deeplab.predict", f"--model_dir={run_dir}/run", f"--output_dir={output_dir}", f"--voc_dir={voc_dir}")
    written = {path.relative_to(output_dir).as_posix() for path in output_dir.rglob("*") if path.is_file()}
    assert written == {f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in names}
    for name in names:
        with Image.open(output_dir / f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == Image.open(voc_dir / "JPEGImages" / f"{name}.jpg").size
            assert np.array(mask).max() < len(shapes.CLASS_NAMES)


def test_predict_rejects_files_that_are_not_images(run_dir, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    done = run(
        "-m",
        "deeplab.predict",
        f"--model_dir={run_dir}/run",
        f"--output_dir={tmp_path}",
        tmp_path / "text.jpg",
        expect=1,
    )
    assert_one_line(done, r"text\.jpg: cannot be read as an image")
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]
    assert done.stderr.count("cannot be read") == 1
    assert "segmenting" not in done.stderr
