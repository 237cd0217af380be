"""What is in memory at the peak of a training step, by kind of operation, from TensorFlow's profiler.

python bench/speed/live_memory.py

ResNet-50, output stride 16, 513x513, batch 4, SGD, on a CPU with oneDNN's operations, whose allocator the profiler
sees. Bytes are those of the allocator, which rounds up; what a step finds there, such as weights, is one row.
"""

import collections
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from common import report
from memory import BATCHES, CROP
from step import CROSS_ENTROPY, NUM_CLASSES, our_step
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig

SHOWN = 10
EACH_ALLOCATION = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)


def allocations(logdir: str) -> list[tuple[bool, dict[str, Any]]]:
    """Whether memory was taken rather than given back, and its properties, in the order of time."""
    space = xplane_pb2.XSpace.FromString(next(Path(logdir).rglob("*.xplane.pb")).read_bytes())
    found = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name not in ("MemoryAllocation", "MemoryDeallocation"):
                    continue
                properties: dict[str, Any] = {}
                for stat in event.stats:
                    value = getattr(stat, stat.WhichOneof("value"))
                    is_reference = stat.HasField("ref_value")
                    properties[plane.stat_metadata[stat.metadata_id].name] = (
                        plane.stat_metadata[value].name if is_reference else value
                    )
                time = line.timestamp_ns * 1000 + event.offset_ps
                found.append((time, name == "MemoryAllocation", properties))
    found.sort(key=lambda each: each[0])
    return [each[1:] for each in found]


def live_at_peak(logdir: str) -> tuple[int, collections.Counter[str]]:
    """Bytes at the peak, and those of each kind of operation that are among them."""
    live: dict[object, tuple[str, int]] = {}
    peak = 0
    at_peak: collections.Counter[str] = collections.Counter()
    for is_taken, properties in allocations(logdir):
        if not is_taken:
            live.pop(properties["addr"], None)
            continue
        kind = re.sub(r"[_\d]+$", "", str(properties.get("tf_op", "")).rpartition("/")[2])
        live[properties["addr"]] = (kind, properties["allocation_bytes"])
        if properties["bytes_allocated"] > peak:
            peak = properties["bytes_allocated"]
            at_peak = collections.Counter()
            for name, size in live.values():
                at_peak[name] += size
    at_peak["before the step"] = peak - at_peak.total()
    return peak, at_peak


def main() -> None:
    """Gigabytes of the largest kinds."""
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    rng = np.random.default_rng(0)
    shape = (BATCHES[-1], CROP, CROP)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (*shape, 3), np.uint8)),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, shape, np.uint8)),
    }
    run = our_step(model, batch, loss=CROSS_ENTROPY)
    run()
    with tempfile.TemporaryDirectory() as logdir:
        with tf.profiler.experimental.Profile(logdir, EACH_ALLOCATION):
            run()
        peak, at_peak = live_at_peak(logdir)
    rows = [(kind, size / 1e9) for kind, size in at_peak.most_common(SHOWN)]
    rows.append(("all", peak / 1e9))
    report("live_memory", ("made by", "GB"), rows, dict(rows))


if __name__ == "__main__":
    main()
