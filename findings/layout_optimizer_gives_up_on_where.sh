#!/usr/bin/env bash
# TensorFlow 2.21.0: one tf.where with a scalar beside features keeps a whole graph in NHWC on GPUs.
#
# Expected: float32 convolutions and training-mode batch normalisation on a GPU are laid out as NCHW by the layout
# optimizer; an operation that it does not understand stays between two transposes.
# Seen: with tf.where(mask, features, 0.0), as dropout is often written, and its gradient, the optimizer fails with
# INVALID_ARGUMENT. In a program that is one line on stderr ("layout failed"), and the whole graph stays NHWC, in which
# float32 batch normalisation transposes its tensors inside. features * mask instead: NCHW.
# Seen as well in: https://github.com/tensorflow/tensorflow/issues/98985
#
# No GPU is needed: the optimizers of the wheel run on a traced graph, for a virtual cluster.
# Output: where InvalidArgumentError Size of values 0 does not match size of permutation 4
#         product ['NCHW']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tensorflow==2.21.0 keras==3.15.1
cat >"$folder/run.py" <<'PYTHON'
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, device_properties_pb2, meta_graph_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

GPU, CPU = ("/job:localhost/replica:0/task:0/device:" + name for name in ("GPU:0", "CPU:0"))
kernels = [tf.Variable(tf.random.normal([3, 3, 16, 16])) for _ in range(2)]
ones, zeros = tf.ones([16]), tf.zeros([16])


def step(drop):
    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            features = tf.nn.conv2d(images, kernels[0], 1, "SAME")
            features, *_ = tf.raw_ops.FusedBatchNormV3(
                x=features, scale=ones, offset=zeros, mean=[], variance=[], is_training=True
            )
            features = drop(tf.nn.relu(features), tf.random.stateless_uniform([4, 16, 16, 16], [1, 2]) > 0.1)
            loss = tf.reduce_sum(tf.nn.conv2d(features, kernels[1], 1, "SAME") ** 2)
        return tape.gradient(loss, kernels)

    return gradients.get_concrete_function(tf.TensorSpec([4, 16, 16, 16]))


def layouts(function):
    graph = function.graph.as_graph_def()
    for node in graph.node:
        node.device = node.device or (GPU if node.op != "Placeholder" else "")
    whole = meta_graph_pb2.MetaGraphDef(graph_def=graph)
    whole.collection_def["train_op"].node_list.value.extend(output.name for output in function.graph.outputs)
    gpu = device_properties_pb2.DeviceProperties(
        type="GPU", num_cores=108, frequency=1410, memory_size=40 << 30, environment={"architecture": "8.0"}
    )
    devices = [device_properties_pb2.NamedDevice(name=GPU, properties=gpu)]
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.fail_on_optimizer_errors = True
    graph = tf_optimizer.OptimizeGraph(config, whole, cluster=cluster.Cluster(devices=devices))
    return sorted({n.attr["data_format"].s.decode() for n in graph.node if n.op in ("Conv2D", "FusedBatchNormV3")})


for name, drop in (
    ("where", lambda features, mask: tf.where(mask, features, 0.0)),
    ("product", lambda features, mask: features * tf.cast(mask, tf.float32)),
):
    try:
        print(name, layouts(step(drop)))
    except tf.errors.InvalidArgumentError as error:
        print(name, type(error).__name__, error.message.partition(" @")[0])
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES="" "$folder/env/bin/python" "$folder/run.py" 2>"$folder/stderr" >"$folder/output" \
    || { cat "$folder/stderr"; exit 1; }
cat "$folder/output"
grep --quiet '^where InvalidArgumentError Size of values 0 does not match size of permutation 4$' "$folder/output"
grep --quiet "^product \['NCHW'\]$" "$folder/output"
