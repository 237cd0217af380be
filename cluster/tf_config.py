"""Prints TF_CONFIG for one worker: python cluster/tf_config.py INDEX HOST:PORT HOST:PORT ... (chief first).

TF_CONFIG=$(python cluster/tf_config.py 0 gpu1:12345 gpu2:12345) python train.py ...
"""

import json
import sys


def tf_config(index: int, workers: list[str]) -> str:
    """TF_CONFIG as text for worker `index` (0 is the chief) of `workers` ("host:port")."""
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) < 2 or not arguments[0].isdecimal() or int(arguments[0]) >= len(arguments) - 1:
        sys.exit(f"{__doc__}\ngot: {' '.join(arguments)}")
    print(tf_config(int(arguments[0]), arguments[1:]))
