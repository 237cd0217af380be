"""Writes a report of many images without a network, to measure how long it takes to open.

python bench/checks/large_report.py VOC_DIR FOLDER COUNT

VOC_DIR: a data set in VOC's layout with class_names.txt. Its training images are repeated up to COUNT; each prediction
is the truth, shifted by up to six pixels. Then: python bench/checks/pages_check.py SHOTS FOLDER/report.html
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.source import voc
from deeplab.labels import VOID_LABEL
from deeplab.training.metrics import Evaluation, confusion_counts, scores
from deeplab.view import report
from deeplab.view.gallery import Gallery

STEPS = range(100, 4600, 100)


def main() -> None:
    """Draws, counts and writes."""
    source = Path(sys.argv[1])
    folder = Path(sys.argv[2])
    count = int(sys.argv[3])
    names = (source / "class_names.txt").read_text().split()
    rng = np.random.default_rng(0)
    gallery = Gallery(folder, names)
    matrix = np.zeros((len(names), len(names)), np.int64)
    for number, pair in enumerate(itertools.islice(itertools.cycle(voc.pairs(source, "train")), count)):
        image = np.array(Image.open(pair.image).convert("RGB"))
        truth = np.array(Image.open(pair.mask))
        prediction = np.roll(truth, rng.integers(-6, 7, 2), (0, 1))
        prediction[prediction == VOID_LABEL] = 0
        gallery.view(f"{pair.name}_{number}", image, truth, prediction)
        matrix += confusion_counts(truth, prediction, len(names))
    records = [
        {"step": step, "split": split, "loss": 100 / step, "mean_iou": 0.7 - 50 / (step + 100)}
        for step in STEPS
        for split in ("train", "val")
    ]
    text = report.render(
        title=f"{source.name}, {count:,} images",
        class_names=names,
        evaluation=Evaluation({"loss": 0.2}, scores(matrix, names), matrix, count),
        gallery=gallery,
        records=records,
        facts={"predictions": "the truth, shifted"},
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    print(f"{folder / 'report.html'}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
