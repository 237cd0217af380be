"""One of the processes of test_workers.py: trains the small network of small_step.py, writes its variables.

tests/worker.py REPLICAS FOLDER JSON_OF_OPTIONS, with TF_CONFIG in the environment. It trains once for each name in the
JSON, with the options of that name, and writes FOLDER/NAME.npz.
"""

import json
import sys

import numpy as np
from small_step import train_small

from deeplab.distribute.devices import make_strategy
from deeplab.distribute.settings import DeviceSettings
from deeplab.distribute.workers import Workers

if __name__ == "__main__":
    num_replicas, folder, options_by_name = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    strategy = make_strategy(DeviceSettings(0, num_replicas), "auto")
    workers = Workers(strategy)
    index = strategy.cluster_resolver.task_id
    flags = {"nobody": workers.any(False), "the last": workers.any(index == 1)}
    for name, options in options_by_name.items():
        weights, totals = train_small(strategy, **options)
        facts = {
            "replicas": strategy.num_replicas_in_sync,
            "is_chief": workers.is_chief,
            "total steps": totals.steps,
            "total loss": totals.losses["loss"],
            "total confusion": totals.confusion,
            **{f"flag {flag}": value for flag, value in flags.items()},
        }
        np.savez(f"{folder}/{name}.npz", **weights, **facts)
