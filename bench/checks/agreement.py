"""Do all ways of segmenting an image give the same classes? eval.py, deeplab.predict, the Python API and an export.

python bench/checks/agreement.py RUN SHARDS VOC_DIR SPLIT [IMAGES]

Segments the first IMAGES (default: all) images of a split and prints, for each way, how many pixels differ from the
masks that eval.py wrote and scored. Those are left in RUN/agreement/masks for bench/checks/independent_score.py.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

import deeplab
from deeplab.data.source.images import read_image
from deeplab.data.source.voc import read_split

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Runs the programs, then compares."""
    model_dir, shards, voc_dir = (Path(argument).resolve() for argument in sys.argv[1:4])
    split = sys.argv[4]
    names = read_split(voc_dir, split)[: int(sys.argv[5]) if len(sys.argv) > 5 else None]
    images = {name: voc_dir / "JPEGImages" / f"{name}.jpg" for name in names}
    output_dir = model_dir / "agreement"
    program("eval.py", f"--model_dir={model_dir}", f"--tfrecord_dir={shards}", f"--split={split}", output=output_dir)
    with tempfile.TemporaryDirectory() as folder:
        predicted = Path(folder) / "predicted"
        exported = Path(folder) / "exported"
        program("-m", "deeplab.predict", f"--model_dir={model_dir}", *images.values(), output=predicted)
        program("-m", "deeplab.export", f"--model_dir={model_dir}", f"--export_dir={exported}")
        signatures = tf.saved_model.load(str(exported)).signatures
        ways: dict[str, Callable[[str], np.ndarray]] = {
            "deeplab.predict": lambda name: read_mask(predicted / "masks" / f"{name}.png"),
            "deeplab.load(run)": by_array(deeplab.load(model_dir).segment, images),
            "deeplab.load(export)": by_array(deeplab.load(exported).segment, images),
            "SavedModel, image_bytes": lambda name: signatures["serving_default"](
                image_bytes=tf.constant([images[name].read_bytes()])
            )["classes"].numpy()[0],
        }
        expected = {name: read_mask(output_dir / "masks" / f"{name}.png") for name in names}
        total = sum(mask.size for mask in expected.values())
        print(f"| way | pixels that differ from eval.py's, of {total:,} in {len(names)} images |\n| --- | --- |")
        for way, segment in ways.items():
            differing = sum(int((segment(name) != mask).sum()) for name, mask in expected.items())
            print(f"| {way} | {differing} |", flush=True)


def by_array(segment: Callable[[np.ndarray], np.ndarray], images: dict[str, Path]) -> Callable[[str], np.ndarray]:
    """A function of an image's name."""
    return lambda name: segment(read_image(images[name]))


def read_mask(path: Path) -> np.ndarray:
    """Class indices: uint8 [height, width]."""
    with Image.open(path) as image:
        return np.array(image)


def program(*arguments: object, output: Path | None = None) -> None:
    """Runs a program of the project; its last words are shown if it fails."""
    command = [sys.executable, *map(str, arguments), *([f"--output_dir={output}"] if output else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-1000:])


if __name__ == "__main__":
    main()
