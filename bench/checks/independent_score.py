"""Scores masks with scikit-learn, to compare with the mean_iou that eval.py wrote. Needs numpy, pillow, scikit-learn.

python bench/checks/independent_score.py MASKS TRUTH METRICS_JSON

MASKS and TRUTH: folders of NAME.png; every mask in MASKS is scored. Void (255) is left out.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import jaccard_score


def main() -> None:
    """Prints both figures and their difference."""
    masks, truth_dir, metrics = (Path(argument) for argument in sys.argv[1:4])
    truth = []
    predicted = []
    for path in sorted(masks.glob("*.png")):
        truth.append(np.array(Image.open(truth_dir / path.name)).ravel())
        predicted.append(np.array(Image.open(path)).ravel())
    labels = np.concatenate(truth)
    classes = np.concatenate(predicted)
    valid = labels != 255
    present = np.union1d(labels[valid], classes[valid])
    score = jaccard_score(labels[valid], classes[valid], labels=present, average="macro")
    written = json.loads(metrics.read_text())["mean_iou"]
    print(
        f"{len(truth)} masks: scikit-learn {score:.15f}, eval.py {written:.15f}, difference {abs(score - written):.1e}"
    )


if __name__ == "__main__":
    main()
