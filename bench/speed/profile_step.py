"""Where the time of one training step goes, by kind of operation, from TensorFlow's profiler.

python bench/speed/profile_step.py

Batch 2 at 384x384, as in step.py. Seconds are summed over threads, so shares measure how busy each operation
keeps its thread; kernels that use several threads (oneDNN's convolutions) count only on the thread that starts them.
"""

import collections
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import report
from step import NUM_CLASSES, SIZE, our_step
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from deeplab.distribute.numerics import set_precision
from deeplab.distribute.settings import PrecisionSettings
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig

SHOWN = 10
BATCH = 2


def operation_seconds(logdir: str) -> dict[str, float]:
    """Seconds by kind of operation, from the profile in `logdir`."""
    space = xplane_pb2.XSpace.FromString(next(Path(logdir).rglob("*.xplane.pb")).read_bytes())
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and not name.endswith(":") and kind.isidentifier():  # names such as a::b are the thread pool's
                    seconds[kind] += event.duration_ps / 1e12
    return seconds


def profile(precision: str) -> dict[str, float]:
    """Seconds of one step by kind of operation."""
    set_precision(PrecisionSettings(precision))
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, (BATCH, SIZE, SIZE), np.uint8)),
    }
    run = our_step(model, batch, steps=1)
    run()
    with tempfile.TemporaryDirectory() as logdir:
        with tf.profiler.experimental.Profile(logdir):
            run()
        return operation_seconds(logdir)


def main() -> None:
    """A table of the largest shares."""
    rows = []
    for precision in ("float32", "bfloat16"):
        seconds = profile(precision)
        largest = sorted(seconds.items(), key=lambda item: -item[1])[:SHOWN]
        rows += [(precision, kind, spent, spent / sum(seconds.values())) for kind, spent in largest]
    figures: dict[str, object] = {f"{precision}_{kind}": share for precision, kind, _, share in rows}
    report("profile_step", ("precision", "operation", "seconds", "share"), rows, figures)


if __name__ == "__main__":
    main()
