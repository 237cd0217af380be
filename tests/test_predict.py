"""Pictures that the command line names, which of them are whose, and how their masks are made in threads."""

import logging
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_mask
from PIL import Image

from deeplab.commands.predict import one_image, program
from deeplab.commands.predict.names import named_images, share_of
from deeplab.commands.predict.one_image import Wanted, read_truth
from deeplab.commands.settings import PredictSettings
from deeplab.data.source.images import ImageFile
from deeplab.errors import DataError, NothingToDo, UsageError
from deeplab.threads import Background, Budget, in_order
from deeplab.view import pictures

ALL = ("masks", "coloured", "overlays")
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "3"}


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.tif", "._a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folders_images_are_found_by_their_endings_without_hidden_files(folder):
    names = [(name, path.name) for name, path in named_images([str(folder)])]
    assert names == [("a", "a.PNG"), ("b", "b.jpg"), ("c", "c.tif")]


def test_a_pattern_matches_no_hidden_files_either(folder):
    assert [name for name, _ in named_images([f"{folder}/*.jpg"])] == ["b"]
    with pytest.raises(DataError, match="no pictures there"):
        named_images([f"{folder}/*.webp"])


def test_standard_input_is_called_stdin(folder):
    assert [name for name, _ in named_images(["-", str(folder / "b.jpg")])] == ["stdin", "b"]


def test_two_images_of_one_name_and_no_images_are_rejected(folder):
    with pytest.raises(UsageError, match=r"b: two images of this name .*b\.jpg and .*b\.png"):
        named_images([str(folder / "b.jpg"), str(folder / "b.png")])
    with pytest.raises(UsageError, match="name at least one image"):
        named_images([])


def test_subfolders_are_kept_and_what_is_no_image_is_said(folder, caplog):
    """As two days of a camera that counts from 0, with phones' HEIC and a film among them."""
    for name in ("day1/img_0.jpg", "day2/img_0.jpg", "day2/IMG_1.HEIC", "day2/film.mp4", "day1/README", ".git/x.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "out").mkdir()
    (folder / "out" / "mask.png").touch()
    names = [name for name, _ in named_images([str(folder)], [folder / "out"])]
    assert names == ["a", "b", "c", "day1/img_0", "day2/img_0"]
    (record,) = caplog.records
    assert record.message.endswith("1 .heic, 1 .mp4, 1 .txt, 1 without an ending")


def test_links_to_folders_are_followed_but_not_in_circles(folder, tmp_path_factory):
    """As on clusters, where the photos of a day lie on another disk; a link without its file is no image to skip."""
    disk = tmp_path_factory.mktemp("disk")
    (disk / "img_0.jpg").touch()
    (disk / "back").symlink_to(folder)
    (folder / "day1").symlink_to(disk)
    (folder / "self").symlink_to(folder)
    (folder / "day2.png").symlink_to(disk / "gone.png")
    names = [name for name, _ in named_images([str(folder)])]
    assert names == ["a", "b", "c", "day1/img_0", "day2"]


@pytest.mark.parametrize("argument", ["", "/*", "/**/*"])
def test_pictures_beside_those_that_are_written_are_found(folder, argument):
    """As with --output_dir=photos photos, the second time; also by a pattern."""
    (folder / "notes.txt").unlink()
    written = [folder / "masks", folder / "overlays"]
    for path in written:
        path.mkdir()
        (path / "a.png").touch()
    assert [name for name, _ in named_images([f"{folder}{argument}"], written)] == ["a", "b", "c"]
    for place in ("masks", "masks/*.png", "masks/a.png"):
        with pytest.raises(DataError, match=f"{place[:5]}.*: no pictures there other than in folders that this"):
            named_images([f"{folder}/{place}"], written)


def test_images_without_a_true_mask_are_segmented_and_listed(tmp_path, caplog):
    """`a` has a mask, `b` none, and that of `c` is of another size."""
    caplog.set_level(logging.INFO)
    for name in "abc":
        Image.new("RGB", (30, 20)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "truth").mkdir()
    write_mask(tmp_path / "truth" / "a.png", np.zeros((20, 30)))
    write_mask(tmp_path / "truth" / "c.png", np.zeros((20, 20)))
    wanted = Wanted(tmp_path / "out", (*ALL, "side_by_side"), tmp_path / "truth", 10**6)
    images = [(name, tmp_path / f"{name}.jpg") for name in "abc"]
    with pytest.raises(DataError, match=r"b\.png: no such file; 2 of 3 images without a true mask beside them$"):
        program.segment(images, [_model()], wanted)
    assert sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir()) == ["a", "b", "c"]
    assert [path.stem for path in (tmp_path / "out" / "side_by_side").iterdir()] == ["a"]
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == [
        f"{tmp_path / 'truth' / 'b.png'}: no such file",
        f"{tmp_path / 'truth' / 'c.png'}: 20x20 pixels, its image is 30x20",
    ]
    written = "masks/, coloured/, overlays/, side_by_side/"
    assert f"3 of 3 images segmented; wrote to {tmp_path / 'out'}: {written}" in caplog.text


def _model(segment=lambda image: np.ones(image.shape[:2], np.uint8)):
    return SimpleNamespace(class_names=("one", "two"), window_size=0, segment=segment)


def _images(folder, names):
    for name in names:
        Image.new("RGB", (30, 20)).save(folder / f"{name}.png")
    return [(name, folder / f"{name}.png") for name in names]


def test_images_go_through_one_model_at_a_time_and_are_said_in_order(tmp_path, caplog):
    """The first image takes longest, and one of two models is idle meanwhile; each holds one image."""
    caplog.set_level(logging.INFO)
    busy = []
    most = []

    def segment(image):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.05 if len(most) == 1 else 0.005)
        busy.pop()
        return np.zeros(image.shape[:2], np.uint8)

    images = _images(tmp_path, "abcdefgh")
    program.segment(images, [_model(segment), _model(segment)], Wanted(tmp_path / "out", ("masks",), None, 600))
    said = [record.getMessage().partition(":")[0] for record in caplog.records][:-1]
    assert said == [str(path) for _, path in images]
    assert max(most) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks"]


def test_a_bad_image_costs_only_itself(tmp_path, caplog):
    """One cannot be read, one is too large, and one has a size that an export refuses."""
    images = _images(tmp_path, "abcd")
    (tmp_path / "a.png").write_text("no picture")
    Image.new("RGB", (31, 20)).save(tmp_path / "b.png")
    Image.new("RGB", (20, 30)).save(tmp_path / "c.png")

    def segment(image):
        if image.shape[:2] != (20, 30):
            raise DataError("images of another size")
        return np.zeros(image.shape[:2], np.uint8)

    with pytest.raises(DataError, match="3 of 4 images left out"):
        program.segment(images, [_model(segment)], Wanted(tmp_path / "out", ("masks",), None, 600))
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said[0].startswith(f"{tmp_path}/a.png: cannot be read as an image")
    assert said[1:] == [
        f"{tmp_path}/b.png: 31x20 pixels, more than --max_pixels=600",
        f"{tmp_path}/c.png: images of another size",
    ]
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["d.png"]


def test_a_failure_that_is_not_an_images_ends_the_work(tmp_path):
    images = _images(tmp_path, "abc")
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="out"):
        program.segment(images, [_model()], Wanted(tmp_path / "out", ("masks",), None, 600))
    assert threading.active_count() < 10  # no thread is left at work


def test_an_interrupted_folder_is_continued(tmp_path):
    """Only images with all their pictures count as done."""
    images = _images(tmp_path, "abc")
    wanted = Wanted(tmp_path / "out", ALL, None, 600)
    program.segment(images, [_model()], wanted)
    (tmp_path / "out" / "overlays" / "b.png").unlink()
    assert program.without_existing(images, wanted) == images[1:2]
    program.segment(images[1:2], [_model()], wanted)
    with pytest.raises(NothingToDo, match="3 of 3 images have their pictures"):
        program.without_existing(images, wanted)
    os.utime(tmp_path / "c.png", (2**32, 2**32))  # another photo of the same name
    assert program.without_existing(images, wanted) == images[2:]
    with pytest.raises(UsageError, match="--skip_existing"):
        program.without_existing(named_images(["-"]), wanted)


def test_processes_share_the_images_without_overlap():
    images = [(str(number), None) for number in range(10)]
    shares = [share_of(images, index, 3, {}) for index in range(3)]
    assert [[name for name, _ in share] for share in shares] == [list("0369"), list("147"), list("258")]
    assert share_of(images, None, 1, ARRAY) == images  # a job array may have another purpose
    assert share_of(images, None, 3, ARRAY | {"SLURM_ARRAY_TASK_COUNT": "3"}) == shares[2]


def test_a_share_that_nobody_or_two_would_take_is_refused():
    for index, environment, words in (
        (3, {}, "the last of --num_shards=3 is 2"),
        (None, {}, "which one is this"),
        (None, ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2"}, "the job array has 2 tasks, 1 to 3"),
    ):
        with pytest.raises(UsageError, match=words):
            share_of([], index, 3, environment)


def test_pictures_and_folders_follow_the_flags(tmp_path):
    assert program.folders_of(PredictSettings()) == ALL
    assert program.folders_of(PredictSettings(masks_only=True)) == ("masks",)
    assert program.folders_of(PredictSettings(voc_dir=tmp_path)) == ("results/VOC2012/Segmentation/comp6_test_cls",)
    with pytest.raises(UsageError, match="--truth_dir is for"):
        PredictSettings(masks_only=True, truth_dir=tmp_path)


def test_results_keep_their_order_and_an_error_its_place():
    def halved(number):
        time.sleep(0.001 * (number % 3))
        return 12 // (number - 20)

    results = in_order(halved, range(100), 3)
    assert [next(results) for _ in range(20)] == [12 // (number - 20) for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_budget_is_never_exceeded_but_by_one_alone():
    budget = Budget(10)
    held = []

    def work(amount):
        with budget.hold(amount):
            held.append(amount)
            is_within = sum(held) <= 10 or len(held) == 1
            time.sleep(0.001)
            held.remove(amount)
        return is_within

    assert all(in_order(work, [3, 12, 5, 4, 10, 1, 11, 2] * 5, 6))


def test_a_file_is_read_only_when_there_is_memory_for_its_image(tmp_path, monkeypatch):
    """There is for one image at a time; a larger file than that of its pixels would count otherwise."""
    reading = []
    most = []

    class CountedFile(ImageFile):
        def __init__(self, *arguments):
            reading.append(1)
            most.append(len(reading))
            super().__init__(*arguments)

    def segment(image):
        time.sleep(0.01)
        reading.pop()
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(one_image, "PIXELS_AT_ONCE", 600)
    monkeypatch.setattr(one_image, "ImageFile", CountedFile)
    wanted = Wanted(tmp_path / "out", ("masks",), None, 600)
    program.segment(_images(tmp_path, "abcdef"), [_model(segment), _model(segment)], wanted)
    assert most == [1] * 6


def test_a_true_mask_may_have_as_many_pixels_as_an_image(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((20, 30)))
    assert read_truth(tmp_path / "a.png", (20, 30), ("one", "two"), 600).shape == (20, 30)
    with pytest.raises(DataError, match="30x20 pixels, more than 599"):
        read_truth(tmp_path / "a.png", (20, 30), ("one", "two"), 599)


def test_masks_of_georeferenced_images_keep_their_place(tmp_path):
    """Tags as GDAL writes them for a raster of 0.5 m in UTM zone 32N, in another file beside the PNG."""
    tags = {
        33550: (12, (0.5, 0.5, 0.0)),
        33922: (12, (0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0)),
        34735: (3, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632)),
        34737: (2, "WGS 84 / UTM zone 32N|"),
    }
    pictures.save_tiff(Image.new("RGB", (30, 20)), tmp_path / "a.tif", tags)
    model = _model(lambda image: np.arange(600, dtype=np.uint8).reshape(20, 30) % 2)
    images = [("a", tmp_path / "a.tif"), *_images(tmp_path, "b")]
    program.segment(images, [model], Wanted(tmp_path / "out", ("masks",), None, 600))
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.png", "a.tif", "b.png"]
    with Image.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        assert {number: mask.tag_v2[number] for number in tags} == {
            number: value for number, (_, value) in tags.items()
        }
        assert mask.mode == "P"
        np.testing.assert_array_equal(mask, Image.open(tmp_path / "out" / "masks" / "a.png"))
    wanted = Wanted(tmp_path / "out", ("masks",), None, 600)
    (tmp_path / "out" / "masks" / "a.tif").unlink()
    assert program.without_existing(images, wanted) == images[:1]  # interrupted in between


@pytest.mark.parametrize("orientation", [1, 3])
def test_a_georeferenced_image_that_exif_turns_is_said(tmp_path, caplog, orientation):
    tags = {274: (3, orientation), 33550: (12, (0.5, 0.5, 0.0))}
    pictures.save_tiff(Image.new("RGB", (30, 20)), tmp_path / "a.tif", tags)
    program.segment([("a", tmp_path / "a.tif")], [_model()], Wanted(tmp_path / "out", ("masks",), None, 600))
    assert (tmp_path / "out" / "masks" / "a.tif").exists() == (orientation == 1)
    assert ("a.tif: EXIF turns this georeferenced TIFF" in caplog.text) == (orientation == 3)


def test_background_work_is_bounded_and_done_at_the_end_and_its_errors_are_raised():
    begun = []
    gate = threading.Event()

    def work(number):
        begun.append(number)
        gate.wait()
        if number == 5:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Background(2) as background:
        for number in range(4):
            background.submit(work, number)  # a fifth one would wait
        assert set(begun) <= {0, 1}
        gate.set()
        for number in range(4, 7):
            background.submit(work, number)
    assert set(begun) >= set(range(6))

    with pytest.raises(KeyError), Background(1) as background:
        gate.clear()
        for number in (10, 11):
            background.submit(work, number)
        gate.set()
        raise KeyError
