"""Tensors of a traced function that a GPU would leave to the host, by the kernels that TensorFlow has registered.

The Linux wheel of TensorFlow registers the GPU kernels on machines without a GPU as well.
"""

import functools
import math

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, node_def_pb2, op_def_pb2
from tensorflow.python.framework import kernels, op_def_registry

CALLS = {"While", "StatelessWhile", "If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall"}
"""Their bodies are looked at instead."""

_SHORT = {("TensorListConcatV2", "lengths")}
"""Results that no size tells of: a number for each tensor of a list."""


@functools.cache
def _registered(op):
    return [kernel for kernel in kernels.get_registered_kernels_for_op(op).kernel if not kernel.label]


def _fits(kernel: kernel_def_pb2.KernelDef, node: node_def_pb2.NodeDef):
    for constraint in kernel.constraint:
        value = node.attr[constraint.name]
        types = [value.type] if value.WhichOneof("value") == "type" else value.list.type
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _gpu_kernel(node):
    """The kernel that a GPU runs for a node; None if the host has to."""
    fitting = [kernel for kernel in _registered(node.op) if _fits(kernel, node)]
    for device in ("GPU", "DEFAULT"):
        for kernel in fitting:
            if kernel.device_type == device:
                return kernel
    return None


def has_gpu_kernels():
    """Whether this TensorFlow is built for GPUs."""
    return any(kernel.device_type == "GPU" for kernel in _registered("Conv2D"))


def _arguments(node, arguments: list[op_def_pb2.OpDef.ArgDef]):
    """Name and type of each tensor of a node: an argument may stand for several."""
    tensors = []
    for argument in arguments:
        if argument.type_list_attr:
            types = list(node.attr[argument.type_list_attr].list.type)
        else:
            number = node.attr[argument.number_attr].i if argument.number_attr else 1
            types = [argument.type or node.attr[argument.type_attr].type] * number
        tensors += [(argument.name, dtype) for dtype in types]
    return tensors


def _bytes(shape, dtype):
    """Bytes of a tensor; infinite for an unknown size, 0 for what is no data, as resources are not."""
    dtype = tf.dtypes.as_dtype(dtype)
    if dtype in (tf.resource, tf.variant, tf.string):
        return 0
    if shape.unknown_rank or any(dimension.size < 0 for dimension in shape.dim):
        return math.inf
    return math.prod(dimension.size for dimension in shape.dim) * dtype.base_dtype.size


def _shapes(node):
    """The shapes of a node's results, None where they have no data worth counting: lists of axes."""
    shapes = list(node.attr["_output_shapes"].list.shape)
    return [None] * len(shapes) if node.op == "BroadcastGradientArgs" else shapes


class _Body:
    """The nodes of a graph or of one of its functions, with the shape of each tensor by its name as an input."""

    def __init__(self, nodes, results, arguments=(), argument_shapes=()):
        read = {
            name.lstrip("^").partition(":")[0] for name in (*results, *(name for node in nodes for name in node.input))
        }
        # TensorFlow prunes what nothing reads, such as the range of a loop.
        self.nodes = [node for node in nodes if node.name in read or op_def_registry.get(node.op).is_stateful]
        self._shapes = dict(zip(arguments, argument_shapes, strict=False))
        for node in nodes:
            names = [name for name, _ in _arguments(node, op_def_registry.get(node.op).output_arg)]
            for index, shape in enumerate(_shapes(node)):
                self._shapes[f"{node.name}:{index}" if index else node.name] = shape  # in graphs
                if index < len(names):  # in functions
                    self._shapes[f"{node.name}:{names[index]}:{index - names.index(names[index])}"] = shape

    def inputs(self, node):
        """The shape of each input of a node, None where it is not known which tensor that is."""
        return [self._shapes.get(name) for name in node.input if not name.startswith("^")]


def _bodies(function):
    graph = function.graph.as_graph_def(add_shapes=True)
    yield _Body(graph.node, [output.name for output in function.graph.outputs])
    for function in graph.library.function:
        names = [argument.name for argument in function.signature.input_arg]
        shapes = [
            next(iter(function.arg_attr[index].attr["_output_shapes"].list.shape), None) for index in range(len(names))
        ]
        yield _Body(
            function.node_def,
            [*function.ret.values(), *function.control_ret.values()],
            [name for name, shape in zip(names, shapes, strict=True) if shape],
            [shape for shape in shapes if shape],
        )


def host_tensors(function: tf.types.experimental.ConcreteFunction, device: str, more_than: int = 1024):
    """Nodes of the device that read or write more than this many bytes in the host's memory: [(op, node, reason)].

    Nodes without a device count as this device's: TensorFlow places them on the first GPU.
    """
    found = []
    for body in _bodies(function):
        for node in body.nodes:
            if node.op in CALLS or (node.device and not node.device.endswith(device)):
                continue
            kernel, definition = _gpu_kernel(node), op_def_registry.get(node.op)
            inputs, outputs = (_arguments(node, each) for each in (definition.input_arg, definition.output_arg))
            tensors = [*zip(inputs, body.inputs(node), strict=True), *zip(outputs, _shapes(node), strict=False)]
            for (name, dtype), shape in tensors:
                on_gpu = kernel and name not in kernel.host_memory_arg
                on_gpu = on_gpu or (node.op, name) in _SHORT
                if on_gpu or shape is None or _bytes(shape, dtype) <= more_than:
                    continue
                reason = f"{name} in the host's memory" if kernel else "no kernel for GPUs"
                sizes = [dimension.size for dimension in shape.dim]
                found.append((node.op, node.name, f"{reason}: {tf.dtypes.as_dtype(dtype).name} {sizes}"))
    return found
