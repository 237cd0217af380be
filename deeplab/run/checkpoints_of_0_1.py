"""Checkpoints of 0.1.0, in the form that this version restores. To be deleted in 0.4 (CHANGELOG.md).

ResNets used to have biases in front of batch normalization, as in Keras. It subtracts them again, so they are folded
into its moving means. Their momentum and averages are left out: they had no effect, unless batch normalization was
frozen, where the biases were trained.
"""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from deeplab.errors import DeepLabError

logger = logging.getLogger("deeplab")

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@contextmanager
def in_current_form(path: str) -> Iterator[str]:
    """The path of a checkpoint without folded biases: the given one, or a copy that exists in this context."""
    reader = tf.train.load_checkpoint(path)
    if GRAPH not in reader.get_variable_to_shape_map():
        yield path  # not written by tf.train.Checkpoint; restoring it will say so
        return

    # Which biases it has, and the moving means that they are folded into.
    graph = TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))
    stored = {number: node.attributes[0] for number, node in enumerate(graph.nodes) if node.attributes}
    keys = {variable.full_name: variable.checkpoint_key for variable in stored.values()}
    folded = {name: mean for name in keys if (mean := _mean_of(name)) and mean in keys}
    if not folded:
        yield path
        return
    logger.info("%s: of an earlier version; biases are folded into the moving means of batch normalization", path)

    # The same checkpoint without the biases and their slots.
    dropped = {
        number for number, each in stored.items() if each.full_name in folded or _is_slot(each.full_name, folded)
    }
    kept = [variable.checkpoint_key for number, variable in stored.items() if number not in dropped]
    values = {key: reader.get_tensor(key) for key in kept}
    for bias, mean in folded.items():
        values[keys[mean]] = values[keys[mean]] - reader.get_tensor(keys[bias])
    graph = _without(graph, dropped)

    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder) / Path(path).name)
        try:
            _write(copy, {**values, GRAPH: np.array(graph.SerializeToString(), object)})
        except tf.errors.OpError as error:
            raise DeepLabError(
                f"{folder}: no copy of {path} in the current form could be written ({str(error).splitlines()[0]}); "
                "TMPDIR in the environment names another folder"
            ) from error
        yield copy


def _mean_of(name: str) -> str | None:
    """The moving mean that the bias of one of Keras's ResNets is folded into; None for other variables."""
    return f"{name.removesuffix('_conv/bias')}_bn/moving_mean" if name.endswith("_conv/bias") else None


def _is_slot(name: str, biases: dict[str, str]) -> bool:
    """Whether an optimizer's variable, such as sgd/conv1_conv_bias_momentum, belongs to one of the biases."""
    of = re.fullmatch(r"[^/]+/(.+)_conv_bias_[^_]+", name)
    return of is not None and f"{of[1]}_conv/bias" in biases


def _without(graph: TrackableObjectGraph, dropped: set[int]) -> TrackableObjectGraph:
    """The remaining objects, renumbered, as are the items of their lists."""
    kept = [number for number in range(len(graph.nodes)) if number not in dropped]
    new_number = {number: index for index, number in enumerate(kept)}
    result = TrackableObjectGraph()
    for number in kept:
        node = result.nodes.add()
        node.CopyFrom(graph.nodes[number])
        children = [child for child in graph.nodes[number].children if child.node_id in new_number]
        if all(child.local_name.isdecimal() for child in children):
            children.sort(key=lambda child: int(child.local_name))
            names = [str(index) for index in range(len(children))]
        else:
            names = [child.local_name for child in children]
        del node.children[:]
        for name, child in zip(names, children, strict=True):
            node.children.add(node_id=new_number[child.node_id], local_name=name)
    return result


def _write(path: str, tensors: dict[str, np.ndarray]) -> None:
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=path, tensor_names=names, shape_and_slices=[""] * len(names), tensors=[tensors[name] for name in names]
    )
