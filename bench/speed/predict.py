"""Images/s of `deeplab.predict` in threads and one image after the other, with a network and with a constant for it.

python bench/speed/predict.py [IMAGES [RUN]]        default 24

MobileNetV2 at stride 16 on images of 500x375, all pictures and only masks. The variants take turns. Given a run, then
those of the program and of that in the checkout OTHER_CHECKOUT, without their start and first image.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import HEIGHT, WIDTH, images_of_vocs_size, ratio, report, take_turns
from PIL import Image

from deeplab.api import Model, ModelConfig, build_deeplabv3
from deeplab.commands.predict.names import Named
from deeplab.commands.predict.one_image import COLORED, MASKS, OVERLAYS, OneImage, Segments, Wanted
from deeplab.data.source import voc
from deeplab.threads import in_order

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 24
ROUNDS = 3
NUM_THREADS = 3 + (os.cpu_count() or 1)
"""As deeplab.predict with one device."""


class Constant:
    """In place of a network: background everywhere."""

    class_names = voc.CLASS_NAMES
    window_size = 0

    def segment(self, image: np.ndarray) -> np.ndarray:
        """As `Segments`."""
        return np.zeros(image.shape[:2], np.uint8)

    def segment_band(self, image: np.ndarray, index: int, number: int) -> np.ndarray:
        """Not called without windows."""
        raise NotImplementedError


def write_images(folder: Path, number: int) -> list[Named]:
    """JPEGs of one size, cut or repeated from those of `images_of_vocs_size`."""
    named = []
    for pair in images_of_vocs_size(folder, number):
        path = folder / f"{pair.name}.jpg"
        with Image.open(pair.image) as image:
            image.convert("RGB").resize((WIDTH, HEIGHT)).save(path, quality=92)
        named.append((pair.name, path))
    return named


def measured(images: list[Named], model: Segments, wanted: Wanted, num_threads: int) -> Callable[[], float]:
    """A function that returns the images/s of all images; with one thread they are made one after the other."""

    def measure() -> float:
        make = OneImage([model], wanted)
        start = time.perf_counter()
        outcomes = map(make, images) if num_threads == 1 else in_order(make, images, num_threads)
        assert not [outcome for outcome in outcomes if outcome.unread]
        return len(images) / (time.perf_counter() - start)

    return measure


def of_programs(run: str, images: list[Named], folder: Path) -> dict[str, list[float]]:
    """Images/s of the program in each checkout, of all images but the first, from programs with all and with one."""
    checkouts = {"deeplab.predict": ROOT, "that of the other checkout": Path(os.environ["OTHER_CHECKOUT"])}
    rates: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(ROUNDS):
        for name, checkout in checkouts.items():
            seconds = []
            for chosen in (images[:1], images):
                command = [sys.executable, "-m", "deeplab.predict", f"--model_dir={run}", f"--output_dir={folder}"]
                command += [str(path) for _, path in chosen]
                environment = os.environ | {"PYTHONPATH": str(checkout)}
                start = time.perf_counter()
                subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
            rates[name].append((len(images) - 1) / (seconds[1] - seconds[0]))
    return rates


def main() -> None:
    """The tables."""
    number = int(sys.argv[1]) if sys.argv[1:] else IMAGES
    network = build_deeplabv3(ModelConfig(voc.CLASS_NAMES, backbone="mobilenet_v2"))
    models: dict[str, Segments] = {
        "MobileNetV2": Model.from_keras(network, voc.CLASS_NAMES),
        "a constant": Constant(),
    }
    folders = {"all pictures": (MASKS, COLORED, OVERLAYS), "only masks": (MASKS,)}
    with tempfile.TemporaryDirectory() as name:
        images = write_images(Path(name), number)
        variants = {
            f"{kind}, {what}, {how}": measured(images, model, Wanted(Path(name) / "out", chosen, None, 10**9), threads)
            for kind, model in models.items()
            for what, chosen in folders.items()
            for how, threads in (("one by one", 1), ("in threads", NUM_THREADS))
        }
        rates = take_turns(variants, ROUNDS)
        programs = of_programs(sys.argv[2], images, Path(name) / "programs") if sys.argv[2:] else {}
    rows = []
    figures: dict[str, object] = {"images": number}
    for label, values in rates.items():
        first = rates[f"{label.split(', ')[0]}, all pictures, one by one"]
        rows.append((label, float(np.median(values)), ratio(values, first)))
        figures[label] = ratio(values, first)
    report("predict", ("network, pictures, how", "images/s", "of all pictures, one by one"), rows, figures)
    if programs:
        other = programs["that of the other checkout"]
        compared = {name: ratio(values, other) for name, values in programs.items()}
        rows = [(name, float(np.median(values)), compared[name]) for name, values in programs.items()]
        report("predict, programs", ("program", "images/s", "of the other's"), rows, compared)


if __name__ == "__main__":
    main()
