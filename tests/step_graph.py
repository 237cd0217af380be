"""What is in the graph of a step: its nodes as traced, its collectives, and the kernels that ran."""

import collections
import functools

import tensorflow as tf
from small_step import K, _worker_dataset
from tensorflow.python.eager import context

from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step


def _traced_nodes(train, iterator):
    """All nodes of the traced function and of the functions that it calls."""
    graph = train.get_concrete_function(iterator, tf.constant(1)).graph.as_graph_def()
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _collectives(train, iterator, num_replicas):
    """Collective operations per replica and step in the traced function."""
    kinds = [node.op for node in _traced_nodes(train, iterator) if node.op.startswith("Collective")]
    assert set(kinds) <= {"CollectiveReduceV2"}
    count, rest = divmod(len(kinds), num_replicas)
    assert rest == 0
    return count


def _trace(model, strategy, batches, precision="float32", **step_options):
    with strategy.scope():
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, precision == "float16")
    state = TrainState(model, model, optimizer, schedule)
    loss = Loss(K, LossSettings(auxiliary_weight=0.4) if len(model.outputs) > 1 else LossSettings())
    train = make_train_step(strategy, state, loss, StepSettings(**step_options), weight_decay=1e-4)
    return train, iter(strategy.distribute_datasets_from_function(functools.partial(_worker_dataset, batches)))


NOT_KERNELS = {"_Arg", "_Retval", "Const", "_Send", "_Recv", "NoOp", "_HostSend", "_HostRecv", "Enter", "Exit"}


def _kernels(train, iterator, device):
    """Operations on a logical CPU in the graph of one step that ran, after TensorFlow's optimisations, by kind."""
    context.enable_graph_collection()
    train(iterator, tf.constant(1))
    graphs = context.export_run_metadata().function_graphs
    context.disable_graph_collection()
    parts = max((graph.partition_graphs for graph in graphs), key=lambda parts: sum(len(part.node) for part in parts))
    names = [node.op for part in parts for node in part.node if node.device.endswith(f"CPU:{device}")]
    return collections.Counter(name for name in names if name not in NOT_KERNELS)
