"""Examples/s of writing shards, in one and in two processes, compared with copying the same files.

[VOC_DIR=...] python bench/speed/preparation.py

Two processes start by importing TensorFlow, which is included in the time.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import mock

from common import images_of_vocs_size, ratio, report, take_turns, write_voc

from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc

EXAMPLES = 1000
ROUNDS = 1


def main() -> None:
    """Rates and their ratios to cp's."""
    with tempfile.TemporaryDirectory() as name:
        voc_dir = write_voc(Path(name) / "voc", images_of_vocs_size(Path(name), EXAMPLES))

        def copy() -> float:
            with tempfile.TemporaryDirectory(dir=name) as target:
                start = time.perf_counter()
                subprocess.run(["cp", "-rL", str(voc_dir), target], check=True)
                return EXAMPLES / (time.perf_counter() - start)

        def write(processes: int) -> float:
            with tempfile.TemporaryDirectory(dir=name) as target, mock.patch("os.cpu_count", lambda: processes):
                start = time.perf_counter()
                prepare(ShardSettings(voc_dir=voc_dir), Path(target), "train", voc.CLASS_NAMES)
                return EXAMPLES / (time.perf_counter() - start)

        rates = take_turns({"cp": copy, "1 process": lambda: write(1), "2 processes": lambda: write(2)}, ROUNDS)
    rows = [(name, statistics.median(values), ratio(values, rates["cp"])) for name, values in rates.items()]
    report(
        "preparation", ("what", "examples/s", "of cp"), rows, {f"{name}_over_cp": share for name, _, share in rows[1:]}
    )


if __name__ == "__main__":
    main()
