#!/usr/bin/env bash
# TensorFlow 2.21.0: on GPUs in float16 the gradient of a ReLU is fused into a batch normalisation's gradient kernel
# whose reserve space comes from another forward kernel; and whether that happens depends on a switch for CPUs.
#
# The graph: normalise with the statistics of this device (training mode), which gives the gradient kernel its reserve
# space; then once more with other statistics (inference mode), as synchronised batch normalisation does; then ReLU.
# Expected: FusedBatchNormGradV3 takes in the ReLU's gradient only if its reserve space is that of the forward kernel
# that the ReLU was fused with (_FusedBatchNormEx).
# Seen: with TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=1 it is fused although the reserve space is that of the plain
# training kernel, which knows of no ReLU. tf.raw_ops.Snapshot in front of the gradient prevents it.
# Seen as well: with TF_ENABLE_ONEDNN_OPTS=1, a switch for CPU operations which is on by default on processors with
# AVX512_VNNI, neither kernel is fused, on GPUs: the same program runs other GPU kernels on another host.
#
# No GPU is needed: the optimizers of the wheel run on a traced graph, for a virtual cluster.
# Output: oneDNN 0, plain: gradient fused with the ReLU, its reserve space from FusedBatchNormV3, forward fused 1
#         oneDNN 0, Snapshot: gradient not fused, forward fused 1
#         oneDNN 1, plain: gradient not fused, forward fused 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tensorflow==2.21.0 keras==3.15.1
cat >"$folder/run.py" <<'PYTHON'
import os
import sys

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, device_properties_pb2, meta_graph_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

GPU = "/job:localhost/replica:0/task:0/device:GPU:0"
guarded = sys.argv[1] == "Snapshot"
scale, offset, mean, variance = tf.ones([16]), tf.zeros([16]), tf.ones([16]), tf.ones([16])


kernels = [tf.random.normal([3, 3, 16, 16], dtype=tf.float16) for _ in range(2)]
CONV = {"strides": [1, 1, 1, 1], "padding": "SAME"}


@tf.function
def gradient(images, by_outputs):
    x = tf.raw_ops.Conv2D(input=images, filter=kernels[0], **CONV)
    _, _, _, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], is_training=True
    )
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False
    )
    features = tf.nn.relu(y)
    outputs = tf.raw_ops.Conv2D(input=features, filter=kernels[1], **CONV)
    by_features = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[4, 16, 16, 16], filter=kernels[1], out_backprop=by_outputs, **CONV
    )
    by_y = tf.raw_ops.ReluGrad(gradients=by_features, features=features)
    by_x, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=tf.raw_ops.Snapshot(input=by_y) if guarded else by_y,
        x=x,
        scale=scale,
        reserve_space_1=reserved[0],
        reserve_space_2=reserved[1],
        reserve_space_3=reserved[2],
        is_training=True,
    )
    by_kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=images, filter_sizes=[3, 3, 16, 16], out_backprop=by_x, **CONV
    )
    return outputs, by_kernel


spec = tf.TensorSpec([4, 16, 16, 16], tf.float16)
function = gradient.get_concrete_function(spec, spec)
graph = function.graph.as_graph_def()
for node in graph.node:
    node.device = node.device or (GPU if node.op != "Placeholder" else "")
whole = meta_graph_pb2.MetaGraphDef(graph_def=graph)
whole.collection_def["train_op"].node_list.value.extend(output.name for output in function.graph.outputs)
gpu = device_properties_pb2.DeviceProperties(
    type="GPU", num_cores=108, frequency=1410, memory_size=40 << 30, environment={"architecture": "8.0"}
)
config = config_pb2.ConfigProto()
config.graph_options.rewrite_options.min_graph_nodes = -1
devices = [device_properties_pb2.NamedDevice(name=GPU, properties=gpu)]
nodes = {node.name: node for node in tf_optimizer.OptimizeGraph(config, whole, cluster=cluster.Cluster(devices=devices)).node}
fused = [node for node in nodes.values() if node.op == "_FusedBatchNormGradEx"]
words = "gradient not fused"
if fused:
    words = f"gradient fused with the ReLU, its reserve space from {nodes[fused[0].input[5].partition(':')[0]].op}"
forward = sum(node.op == "_FusedBatchNormEx" for node in nodes.values())
print(f"oneDNN {os.environ['TF_ENABLE_ONEDNN_OPTS']}, {sys.argv[1]}: {words}, forward fused {forward}")
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES="" TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=1
{
    TF_ENABLE_ONEDNN_OPTS=0 "$folder/env/bin/python" "$folder/run.py" plain
    TF_ENABLE_ONEDNN_OPTS=0 "$folder/env/bin/python" "$folder/run.py" Snapshot
    TF_ENABLE_ONEDNN_OPTS=1 "$folder/env/bin/python" "$folder/run.py" plain
} >"$folder/output" 2>"$folder/stderr" || { cat "$folder/stderr"; exit 1; }
cat "$folder/output"
diff "$folder/output" - <<'EXPECTED'
oneDNN 0, plain: gradient fused with the ReLU, its reserve space from FusedBatchNormV3, forward fused 1
oneDNN 0, Snapshot: gradient not fused, forward fused 1
oneDNN 1, plain: gradient not fused, forward fused 0
EXPECTED
