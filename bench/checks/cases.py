"""Data sets as other tools write them: a table with the outcome of each case in a folder.

python bench/checks/cases.py CASES

CASES has one folder per case; true masks are in the case's `truth/` or, by number, in `truth_index_masks/`. Each case
is converted if necessary and prepared by `train.py --prepare_only`; the labels in the shards are compared with them.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards.split import Split

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "0_255": "background: 0\nobject: 255\n",
    "rgb": "background: #000000\nobject: #ffffff\n",
    "trimap": "foreground: 1\nbackground: 2\nborder: 3\n",
    "palette": "background: #000000\nclass1: #800000\nclass2: #008000\n",
}
"""Class tables, written to the folder of a run."""

VOC = "train.py --prepare_only --voc_dir={case}"
CONVERT = "-m deeplab.data.convert --voc_dir={out}/voc "
COMMANDS = {
    "img_*": [VOC],
    "exif_180": [VOC, VOC + " --exif=ignore", VOC + " --exif=turn"],
    "mask_0_255": [VOC, VOC + " --class_names={out}/0_255"],
    "mask_255_rgb": [VOC, VOC + " --class_names={out}/rgb"],
    "mask_trimap_123": [VOC, VOC + " --class_names={out}/trimap"],
    "mask_palette_per_file": [VOC, VOC + " --class_names={out}/palette"],
    "mask_*": [VOC],
    "masks_*": [VOC],
    "split_*": [VOC],
    "cvat_as_is": [VOC + " --train_split=default --val_split="],
    "lm_*": [CONVERT + "--labelme_dir={case}"],
    "coco_boxes_only_few": [
        CONVERT + f"--coco_json={{json}} --image_dir={{images}}{boxes}" for boxes in ("", " --boxes=void")
    ],
    "coco_roboflow": [CONVERT + "--roboflow_dir={case}"],
    "coco_*": [CONVERT + "--coco_json={json} --image_dir={images}"],
    "yolo_seg": [CONVERT + "--yolo_yaml={case}/data.yaml"],
    "roboflow_masks": [CONVERT + "--roboflow_dir={case}"],
    "cityscapes": [CONVERT + "--cityscapes_dir={case}"],
}
"""Pattern of a case's name -> its commands; the first match counts."""


def main() -> None:
    """Prints the table."""
    cases = Path(sys.argv[1]).resolve()
    print("| case | command | status | last line | pixels that differ |\n| --- | --- | --- | --- | --- |")
    for case in sorted(path for path in cases.iterdir() if path.is_dir()):
        patterns = (pattern for pattern in COMMANDS if Path(case.name).match(pattern))
        for command in COMMANDS.get(next(patterns, ""), []):
            print(row(case, command), flush=True)


def row(case: Path, command: str) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for name, text in TABLES.items():
            (out / name).write_text(text)
        json = next(iter(sorted(case.rglob("*.json"))), case)
        images = next((path for path in (case / "images", case / "JPEGImages") if path.is_dir()), case)
        status, line = run(command.format(case=case, out=out, json=json, images=images), out)
        if status == 0 and "convert" in command:
            status, line = run(VOC.format(case=out / "voc"), out)
        differ = differing(case, out) if status == 0 else ""
        shown = command.replace("{case}", case.name).replace("{out}/", "").replace("{json}", json.name)
        shown = shown.replace("{images}", images.name)
        line = line.replace(str(case), case.name).replace(f"{out}/", "").replace("|", "\\|")
        return f"| {case.name} | `{shown}` | {status} | {line} | {differ} |"


def run(command: str, out: Path) -> tuple[int, str]:
    """(exit status, last line on stderr) of a program of the project."""
    arguments = [*shlex.split(command), *([f"--tfrecord_dir={out}/shards"] if command.startswith("train.py") else [])]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


def differing(case: Path, out: Path) -> str:
    """Number of pixels of the labels in the shards that differ from the true masks, if the case has true masks."""
    wrong = total = 0
    for manifest in sorted((out / "shards").glob("*.json")):
        split = Split.read(out / "shards", manifest.stem)
        batches = EvaluationBatches(split).for_worker().take(split.num_examples)
        for batch in batches.as_numpy_iterator():
            name = batch["name"][0].decode()
            truth = case / "truth" / f"{Path(name).name}.png"
            number = re.search(r"img_\d{3}", name)
            if not truth.exists() and number:
                truth = case.parent / "truth_index_masks" / f"{number[0]}.png"
            if truth.exists():
                with Image.open(truth) as mask:
                    wrong += int((np.array(mask) != batch["label"][0]).sum())
                total += batch["label"][0].size
    return f"{wrong:,} of {total:,}" if total else "no truth"


if __name__ == "__main__":
    main()
