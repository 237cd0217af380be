"""Memory growth: resident size over a long run, on little and on much data.

python bench/checks/endurance.py FOLDER [STEPS]

Trains the demo's network for 2,000 steps and samples the process at every log line. Prints the size at some steps, the
slope over the second half of the run, and a JSON line.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from deeplab.data.source import shapes

ROOT = Path(__file__).resolve().parents[2]
IMAGES = (60, 600, 12_000)


def resident_megabytes(pid: int) -> float:
    """Resident memory of a running process, from /proc."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def survey(folder: Path, num_images: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the resident size in MB at the log line of each."""
    shapes.write_shapes(folder / f"data{num_images}", num_train=num_images, num_val=20)
    run = folder / f"run{num_images}_{int(time.time())}"
    command = [
        *(sys.executable, "train.py", f"--voc_dir={folder}/data{num_images}"),
        *(f"--tfrecord_dir={folder}/shards{num_images}", f"--model_dir={run}"),
        *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=33"),
        *("--global_batch_size=2", f"--train_steps={num_steps}", "--log_every_steps=20", "--checkpoint_steps=500"),
        *("--eval_every_epochs=0", "--learning_rate=0.01"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    steps = []
    sizes = []
    for line in process.stderr or ():
        if found := re.search(r" step (\d+)/", line):
            steps.append(int(found.group(1)))
            sizes.append(resident_megabytes(process.pid))
    if process.wait():
        sys.exit(f"{run}: failed")
    return np.array(steps), np.array(sizes)


def main() -> None:
    """A run on each data set."""
    folder = Path(sys.argv[1]).resolve()
    num_steps = int(sys.argv[2]) if sys.argv[2:] else 2000
    slopes = {}
    for num_images in IMAGES:
        steps, sizes = survey(folder, num_images, num_steps)
        second_half = steps > num_steps // 2
        slope = float(np.polyfit(steps[second_half], sizes[second_half], 1)[0]) * 1000
        slopes[num_images] = slope
        places = [int(np.argmin(np.abs(steps - share * num_steps))) for share in (0.05, 0.25, 0.5, 0.75, 0.99)]
        shown = ", ".join(f"step {steps[place]}: {sizes[place]:.0f}" for place in places)
        print(f"{num_images} images: resident MB at {shown}; slope {slope:+.2f} MB per 1,000 steps", flush=True)
    print(json.dumps({"bench": "endurance", "slope_mb_per_1000_steps": slopes}))


if __name__ == "__main__":
    main()
