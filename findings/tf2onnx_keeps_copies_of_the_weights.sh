#!/usr/bin/env bash
# tf2onnx 1.17.0: a conversion holds the weights dozens of times, because nothing frees its copies of the graph.
#
# Expected: a few copies of the weights: TensorFlow's, the frozen graph's, the converted graph's.
# Seen: before each of its passes tf2onnx copies the graph with copy.deepcopy, to go back if the pass fails. A graph
# refers to itself, so only Python's garbage collector frees a copy, and Python starts a full collection by the number
# of objects, of which a graph has few, not by their size. A network of 156 MB took 9 GB.
# With a thread that calls gc.collect() ten times a second the same conversion, to the same bytes, takes a third.
#
# Output: weights (MB), copies at the peak: 41.94304 68.32099609375 3319bbb1...
#         with a collector: 41.94304 25.47490234375 3319bbb1...
# (What the libraries themselves take counts as copies, too. With 168 MB: 51.2 and 17.3. They vary by a few.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tensorflow==2.21.0 tf2onnx==1.17.0
cat >"$folder/run.py" <<'PYTHON'
import gc
import hashlib
import resource
import sys
import threading

import numpy as np
import tensorflow as tf
import tf2onnx

SIZE, LAYERS = 1024, 10
matrices = [tf.Variable(np.random.default_rng(n).normal(size=(SIZE, SIZE)).astype("float32")) for n in range(LAYERS)]


@tf.function(input_signature=[tf.TensorSpec([None, SIZE], tf.float32, "x")])
def network(x):
    for matrix in matrices:
        x = tf.nn.relu(tf.matmul(x, matrix))
    return {"y": x}


network(tf.zeros([1, SIZE]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
done = threading.Event()


def collect():
    while not done.wait(0.1):
        gc.collect()


if sys.argv[1] == "collector":
    threading.Thread(target=collect).start()
model, _ = tf2onnx.convert.from_function(network, network.input_signature, opset=17)
done.set()
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
weights = LAYERS * SIZE * SIZE * 4
print(weights / 1e6, held / weights, hashlib.sha256(model.SerializeToString()).hexdigest())
PYTHON
plain=$("$folder/env/bin/python" "$folder/run.py" plain 2>"$folder/log") || { cat "$folder/log"; exit 1; }
often=$("$folder/env/bin/python" "$folder/run.py" collector 2>"$folder/log") || { cat "$folder/log"; exit 1; }
echo "weights (MB), copies at the peak: $plain"
echo "with a collector: $often"
python3 - "$plain" "$often" <<'PYTHON'
import sys

plain, often = (line.split() for line in sys.argv[1:])
assert float(plain[1]) > 20, "it keeps few copies now"
assert float(often[1]) < float(plain[1]) / 2, "a collector does not help now"
PYTHON
