"""The formats of an export: size, time to open, time and memory for one image, and mIoU on a split.

python bench/speed/exports.py EXPORT_DIR TFRECORD_DIR [SPLIT]

The image has 500x375 pixels or the export's fixed size, to which those of the split are resized, and their masks back.
Each format in the folder gets a process of its own, one_format.py, which imports only what that format needs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.api import DESCRIPTION
from deeplab.commands.export.lite import QUANTIZED, TFLITE
from deeplab.commands.export.onnx import ONNX
from deeplab.commands.settings import Interface
from deeplab.data.shards import records
from deeplab.data.shards.split import Split
from deeplab.training.metrics import confusion_counts, scores

HEADER = ("format", "size [MB]", "opened [s]", "one image [ms]", "of 4, each [ms]", "memory [MB]", "mIoU [%]")


def main() -> None:
    """Prints the table."""
    export_dir = Path(sys.argv[1])
    split_dir = Path(sys.argv[2])
    split_name = (sys.argv[3:] or ["val"])[0]
    split = Split.read(split_dir, split_name)
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        described = json.loads((export_dir / DESCRIPTION).read_text())
        labels = write_images(split, folder, Interface(described["input_size"]))
        for path in (export_dir / file for file in ("saved_model.pb", ONNX, TFLITE, *QUANTIZED)):
            if path.exists():
                figures = measure(path, folder)
                mean_iou = score(folder, labels, split.num_classes)
                print(
                    f"| {path.name} | {file_size(path) / 1e6:.1f} | {' | '.join(figures)} | {mean_iou:.2f} |",
                    flush=True,
                )


def write_images(split: Split, folder: Path, interface: Interface) -> list[np.ndarray]:
    """Writes the images of a split to files NUMBER.npy; returns the labels, uint8 [height, width]."""
    labels: list[np.ndarray] = []
    for record in tf.data.TFRecordDataset(split.shard_paths):
        image, label = records.decode_example(records.parse_example(record))
        np.save(folder / f"{len(labels):06}.npy", interface.fitted(image.numpy()))
        labels.append(label.numpy()[..., 0])
    return labels


def measure(path: Path, folder: Path) -> list[str]:
    """The figures of one format, as texts; its masks are then in files mask_NUMBER.npy."""
    command = [sys.executable, str(Path(__file__).with_name("one_format.py")), str(path), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    of_batch = "" if figures["of_batch"] is None else f"{1e3 * figures['of_batch']:.0f}"
    return [f"{figures['opened']:.1f}", f"{1e3 * figures['one']:.0f}", of_batch, f"{figures['memory'] / 1e6:.0f}"]


def score(folder: Path, labels: list[np.ndarray], num_classes: int) -> float:
    """Mean IoU of the masks, in per cent."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for number, label in enumerate(labels):
        mask = Image.fromarray(np.load(folder / f"mask_{number:06}.npy"))
        resized = mask.resize(label.shape[::-1], Image.Resampling.NEAREST)
        matrix += confusion_counts(label, np.asarray(resized), num_classes)
    return 100 * (scores(matrix).mean_iou or 0.0)


def file_size(path: Path) -> int:
    """Bytes of a format's files; a SavedModel keeps its weights next to its graph."""
    weights = path.parent.glob("variables/*") if path.suffix == ".pb" else ()
    return sum(file.stat().st_size for file in (path, *weights))


if __name__ == "__main__":
    main()
