"""Where the time of one training step goes, by kind of operation, from TensorFlow's profiler.

python bench/profile_step.py [float32|bfloat16] [batch] [size]

Seconds are summed over threads and kinds, so that the shares count what an operation keeps its thread busy with;
kernels that use several threads (oneDNN's convolutions) count by the time on the thread that runs them.
"""

import collections
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from common import report
from step import NUM_CLASSES, our_step
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from deeplab.distribution import PRECISIONS
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3

SHOWN = 12


def operation_seconds(logdir: str) -> dict[str, float]:
    """Seconds by kind of operation, from the profile that lies below `logdir`."""
    space = xplane_pb2.XSpace.FromString(next(Path(logdir).rglob("*.xplane.pb")).read_bytes())
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and not name.endswith(":") and kind.isidentifier():  # others, of a::b, are the thread pool
                    seconds[kind] += event.duration_ps / 1e12
    return seconds


def main() -> None:
    """A table of the largest."""
    precision = sys.argv[1] if len(sys.argv) > 1 else "float32"
    batch_size, size = map(int, sys.argv[2:] or (2, 384))
    keras.config.set_dtype_policy(PRECISIONS[precision])
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    rng = np.random.default_rng(0)
    run = our_step(
        model,
        {
            "image": tf.constant(rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)),
            "label": tf.constant(rng.integers(0, NUM_CLASSES, (batch_size, size, size), np.uint8)),
        },
    )
    run()
    with tempfile.TemporaryDirectory() as logdir:
        with tf.profiler.experimental.Profile(logdir):
            run()
        seconds = operation_seconds(logdir)
    whole = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:SHOWN]
    rows = [(precision, kind, spent, spent / whole) for kind, spent in largest]
    figures: dict[str, object] = {f"{precision}_{kind}": share for _, kind, _, share in rows}
    report("profile_step", ("precision", "operation", "seconds", "share"), rows, figures)


if __name__ == "__main__":
    main()
