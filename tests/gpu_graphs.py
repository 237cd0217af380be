"""What TensorFlow's graph optimizers make of our steps on GPUs, without a GPU: they see two A100 in a virtual cluster.

python tests/gpu_graphs.py CASE...     CASE: BACKBONE:PRECISION:REPLICAS:train|evaluate

Prints a line of JSON for each case. A process of its own, since TensorFlow reads
TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT once. The devices of a traced graph are renamed to GPUs, and the optimizers of
the installed wheel run as they would before the graph is executed. What a GPU's kernels then compute is not seen.
"""

import gc
import json
import os
import sys
from collections import Counter
from dataclasses import replace

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import tensorflow as tf
from keras.src.applications import resnet
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2, device_properties_pb2, meta_graph_pb2
from tensorflow.python.grappler import cluster, tf_optimizer

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.distribute.numerics import PERSISTENT_BATCH_NORM
from deeplab.model.backbone import BACKBONES
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.replica_step import ReplicaStep
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.totals import StepTotals

CROP, BATCH, CLASSES = 65, 2, ("a", "b", "c")
STAGES = ((64, 2, 1), (128, 1, 2), (256, 1, 2), (512, 2, 2))
"""Filters, blocks and stride of the short ResNet: each form of a block that ResNet-50 has, but 6 and not 16 of them."""

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
HOST = "/job:localhost/replica:0/task:0/device:"
LAID_OUT = ("Conv2D", "_FusedConv2D", "FusedBatchNormV3", "_FusedBatchNormEx", "FusedBatchNormGradV3")


def short_resnet(include_top: bool, weights: str | None) -> keras.Model:
    """Keras's ResNet with fewer blocks; its public names are those with all of them."""

    def stages(features: keras.KerasTensor) -> keras.KerasTensor:
        for number, (filters, blocks, stride) in enumerate(STAGES, 2):
            features = resnet.stack_residual_blocks_v1(features, filters, blocks, stride, name=f"conv{number}")
        return features

    return resnet.ResNet(stages, preact=False, use_bias=True, include_top=include_top, weights=weights)


def optimized(function: tf.types.experimental.ConcreteFunction, num_gpus: int) -> graph_pb2.GraphDef:
    """The graph of a traced function with all optimizers applied; an optimizer that fails raises its error."""
    graph = function.graph.as_graph_def()
    for nodes in (graph.node, *(each.node_def for each in graph.library.function)):
        for node in nodes:
            if not node.device and node.op != "Placeholder":
                node.device = f"{HOST}GPU:0"
            for index in range(num_gpus):
                node.device = node.device.replace(f"CPU:{1 + index}", f"GPU:{index}")
    kept = [output.name for output in function.graph.outputs]
    kept += [each.name for each in function.graph.get_operations() if each.op_def.is_stateful and not each.outputs]
    whole = meta_graph_pb2.MetaGraphDef(graph_def=graph)
    whole.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.min_graph_nodes = -1
    rewriting.fail_on_optimizer_errors = True
    return tf_optimizer.OptimizeGraph(config, whole, cluster=cluster.Cluster(devices=_devices(num_gpus)))


def _devices(num_gpus: int) -> list[device_properties_pb2.NamedDevice]:
    gpu = device_properties_pb2.DeviceProperties(
        type="GPU",
        num_cores=108,
        frequency=1410,
        memory_size=40 << 30,
        bandwidth=1555 << 20,
        environment={"architecture": "8.0"},
    )
    cpu = device_properties_pb2.DeviceProperties(type="CPU", num_cores=4, frequency=2000, memory_size=1 << 33)
    gpus = [device_properties_pb2.NamedDevice(name=f"{HOST}GPU:{index}", properties=gpu) for index in range(num_gpus)]
    return [*gpus, device_properties_pb2.NamedDevice(name=f"{HOST}CPU:0", properties=cpu)]


def traced(backbone: str, precision: str, replicas: int, kind: str) -> tf.types.experimental.ConcreteFunction:
    """A replica's step of training or evaluation on each replica, in the form for GPUs."""
    keras.config.set_dtype_policy(POLICIES[precision])
    tf.distribute.MirroredStrategy._collective_key_base += 100_000  # each strategy has its own collectives
    strategy = tf.distribute.MirroredStrategy([f"CPU:{1 + index}" for index in range(replicas)])
    with strategy.scope():
        model = build_deeplabv3(ModelConfig(CLASSES, backbone))
        schedule = Schedule(ScheduleSettings("constant"), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, precision == "float16")
        predict = Predictor(model)
    if kind == "evaluate":
        images = tf.TensorSpec([None, None, None, 3], tf.uint8)
        function = tf.function(lambda images: strategy.run(lambda each: tf.argmax(predict(each), -1), (images,)))
        return function.get_concrete_function(images)
    state = TrainState(model, model, optimizer, schedule)
    step = ReplicaStep(
        state, Loss(len(CLASSES)), weight_decay=1e-4, finish=Augmentation(AugmentationSettings(CROP)).finish
    )

    def train(batch: dict[str, tf.Tensor]) -> StepTotals:
        before = step.read_state()
        return step.update(step.part_of_whole(batch), before)

    batch = {
        "image": tf.TensorSpec([BATCH, CROP, CROP, 3], tf.uint8),
        "label": tf.TensorSpec([BATCH, CROP, CROP], tf.uint8),
        "shifts": tf.TensorSpec([BATCH, 3], tf.float32),
    }
    return tf.function(lambda batch: strategy.run(train, (batch,))).get_concrete_function(batch)


def counts(graph: graph_pb2.GraphDef) -> dict[str, object]:
    """What is counted, over all replicas.

    `fused`: gradients of batch normalisation with that of a ReLU in one kernel; `misfused`: those of them whose reserve
    space comes from a forward kernel without the ReLU. `layouts`: data formats of convolutions and normalisations.
    """
    nodes = {node.name: node for node in graph.node}
    operations = Counter(node.op for node in graph.node)
    fused = [node for node in graph.node if node.op == "_FusedBatchNormGradEx"]
    reserved = [nodes[node.input[5].partition(":")[0]].op for node in fused]
    layouts = {node.attr["data_format"].s.decode() for node in graph.node if node.op in LAID_OUT}
    return {
        "fused": len(fused),
        "misfused": len(fused) - reserved.count("_FusedBatchNormEx"),
        "plain": operations["FusedBatchNormGradV3"],
        "forward_fused": operations["_FusedBatchNormEx"],
        "layouts": sorted(layouts),
        "transposes": operations["Transpose"],
    }


def main() -> None:
    """A line for each case."""
    os.environ[PERSISTENT_BATCH_NORM] = "1"  # as train.py sets it for half precisions; float32 does not depend on it
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    real = tf.config.list_logical_devices
    tf.config.list_logical_devices = lambda kind=None: ["GPU:0"] if kind == "GPU" else real(kind)
    BACKBONES["short_resnet"] = replace(
        BACKBONES["resnet50"],
        build=short_resnet,
        auxiliary_layer="conv4_block1_out",
        low_level_layer="conv2_block2_out",
    )
    for case in sys.argv[1:]:
        gc.freeze()  # TensorFlow keeps the graphs; Python need not search them for garbage
        backbone, precision, replicas, kind = case.split(":")
        keras.backend.clear_session()
        try:
            found = counts(optimized(traced(backbone, precision, int(replicas), kind), int(replicas)))
        except tf.errors.OpError as error:
            found = {"failed": error.message.splitlines()[0][:300]}
        print(json.dumps({"case": case, **found}), flush=True)


if __name__ == "__main__":
    main()
