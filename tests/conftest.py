"""Shared fixtures. TensorFlow sees four logical CPU devices, so that replicas can be tested anywhere."""

import deeplab  # noqa: F401  before TensorFlow, whose kernels it chooses

# isort: split
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import HANGS, ROOT
from PIL import Image
from small_run import COLOR, COLORED, TRAIN_FLAGS
from tiny import TINY

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.data.source import shapes, voc
from deeplab.labels import palette
from deeplab.model.backbone import BACKBONES
from deeplab.model.settings import ModelConfig
from deeplab.settings import all_settings

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
GOLDEN = Path(__file__).with_name("golden")
NAMES = ("background", "one", "two")
"""Classes of `tiny_voc`."""


def pytest_configure(config):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the programs that tests start: expected values are those of CPUs
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


def make_strategy(num_replicas):
    """A strategy over logical CPUs, with its own collective keys as in TensorFlow's strategy_combinations.py.

    Without those, strategies of different sizes cannot live in one process.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(num_replicas)])


def skip_without_kernels(dtype):
    """Skips a test where this processor lacks a type's kernels: oneDNN's of bfloat16 need AVX-512."""
    ones = tf.ones([1])
    images = tf.ones([1, 4, 4, 1], dtype)
    try:
        tf.nn.conv2d(images, tf.ones([3, 3, 1, 1], dtype), 1, "SAME")
        tf.raw_ops.FusedBatchNormV3(x=images, scale=ones, offset=ones, mean=[], variance=[], is_training=True)
    except tf.errors.OpError as error:
        pytest.skip(f"no kernels for {dtype} here: {type(error).__name__}")


class ViewerOf:
    """A viewer of evaluations that calls a function for each example."""

    def __init__(self, view):
        self.view = view

    def wants(self, number):
        return True

    def results(self):
        return {}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def no_seed_of_another_test():
    """Sets Keras's and TensorFlow's global seeds, so that they do not depend on the tests before."""
    keras.utils.set_random_seed(1)


@pytest.fixture(autouse=True)
def no_search_of_old_graphs():
    """Exempts what a test leaves behind from Python's search for garbage.

    TensorFlow never frees the graphs it traced. Each search, as in every `clear_session`, took seconds at the end.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def signal_handlers():
    """Restores the signal handlers that the loop sets."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def float32():
    """Sets Keras's dtype policy back after a test that changes it."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    """A small synthetic data set in VOC layout: 10 training and 5 validation images."""
    folder = tmp_path_factory.mktemp("shapes") / "voc"
    shapes.write_shapes(folder, num_train=10, num_val=5)
    return folder


@pytest.fixture(scope="session")
def shards(shapes_dir, tmp_path_factory):
    """Folder of the shards of `shapes_dir`: train in 3 files, val in 2."""
    folder = tmp_path_factory.mktemp("shards")
    prepare(ShardSettings(voc_dir=shapes_dir, num_shards=3), folder, "train", voc.CLASS_NAMES)
    prepare(ShardSettings(voc_dir=shapes_dir, num_shards=2), folder, "val", voc.CLASS_NAMES)
    return folder


@pytest.fixture(scope="session")
def run_dir(shapes_dir, tmp_path_factory):
    """A folder with a finished run in `run/`, its shards in `shards/`, and the program's output in `stderr`."""
    folder = tmp_path_factory.mktemp("programs")
    lines = [f"{name}: {index}" for index, name in enumerate(shapes.CLASS_NAMES)]
    lines[COLORED] += f" #{bytes(COLOR).hex()}"
    (folder / "classes.txt").write_text("\n".join([*lines, "void: 255"]))
    places = (f"--voc_dir={shapes_dir}", f"--tfrecord_dir={folder}/shards", f"--model_dir={folder}/run")
    command = [sys.executable, "tests/tiny.py", "train.py", *places, f"--class_names={folder}/classes.txt"]
    with (folder / "stderr").open("w") as stderr:
        subprocess.run([*command, *TRAIN_FLAGS], cwd=ROOT, stderr=stderr, timeout=HANGS, check=True)
    return folder


@pytest.fixture(scope="module")
def tiny_backbone():
    """Makes the backbone `tiny` known in this process, for networks that are built or loaded meanwhile."""
    (choices,) = (each.choices for each in all_settings([ModelConfig]) if each.name == "backbone")
    choices.append("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        yield
    choices.remove("tiny")


@pytest.fixture
def voc_sample():
    """Real PASCAL VOC images, which are not part of the project."""
    folder = SHARED_DATA / "voc2012_sample"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture
def tiny_voc(tmp_path):
    """A writable VOC folder of two 20x30 images, `a` and `b`, with three classes and void."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    for name in "ab":
        image = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "voc" / "JPEGImages" / f"{name}.jpg")
        write_mask(tmp_path / "voc" / "SegmentationClass" / f"{name}.png", rng.choice([0, 1, 2, 255], (20, 30)))
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    return tmp_path / "voc"


def write_mask(path, indices):
    """Writes a palettised PNG of class indices."""
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(palette().tobytes())
    image.save(path)
