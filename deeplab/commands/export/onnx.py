"""ONNX, by tf2onnx."""

import contextlib
import gc
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deeplab.commands.export.interface import image_spec
from deeplab.commands.export.saved_model import Segmenter

ONNX = "model.onnx"

_NUMBER = re.compile(r"__\d+$")


def write_onnx(segmenter: Segmenter, path: Path) -> None:
    """Writes the network with the segmenter's interface as ONNX."""
    import tf2onnx  # noqa: PLC0415 - an extra

    interface = segmenter.interface
    images = image_spec(interface, dtype=interface.input_type, channels_first=interface.channels_first)
    function = segmenter.for_runtimes(interface.channels_first)
    with _garbage_collected_often():
        model, _ = tf2onnx.convert.from_function(function, [images], opset=interface.onnx_opset)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    for value in (*model.graph.input, *model.graph.output):
        _name_axes(value.type.tensor_type.shape.dim, interface.channels_first)
    _name_in_order(model.graph)
    model.graph.doc_string = ""  # the number of the traced function
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def _garbage_collected_often() -> Iterator[None]:
    """A context in which a thread collects garbage every tenth of a second.

    tf2onnx 1.17 copies the whole graph with its weights before each of its passes, 24 times for ResNet-50. The copies
    refer to themselves, so only the collector frees them, and Python starts it by the number of objects, not their
    size. Without this, ResNet-50's export took 9.2 GB instead of 3.9 (findings/tf2onnx_keeps_copies_of_the_weights.sh).
    """
    done = threading.Event()

    def collect() -> None:
        while not done.wait(0.1):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _name_axes(sizes: Any, channels_first: bool) -> None:  # noqa: ANN401
    """Gives the sizes that are not fixed the same names everywhere, so that a runtime knows which of them are equal."""
    names = ["batch", "height", "width"]
    if len(sizes) > len(names):
        names.insert(1 if channels_first else 3, "channels")
    for size, name in zip(sizes, names, strict=True):
        if not size.dim_value:
            size.dim_param = name


def _name_in_order(graph: Any) -> None:  # noqa: ANN401
    """Names convolutions after their layers, other nodes by their order, and constants after their first reader.

    tf2onnx numbers them as they come and gives equal ones one of their names, others in each process: the same network
    would be exported to files of other bytes.
    """
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = {constant.name for constant in graph.initializer}
    count: Counter[str] = Counter()
    for node in graph.node:
        stem = _NUMBER.sub("", node.name) if node.op_type == "Conv" else node.op_type
        count[stem] += 1
        node.name = f"{stem}__{count[stem]}"

        for place, name in enumerate(node.input):
            if name in constants:
                names.setdefault(name, f"{node.name}/{place}")
            node.input[place] = names[name] if name else ""  # an input that is left out has no name
        for place, name in enumerate(node.output):
            node.output[place] = names.setdefault(name, f"{node.name}:{place}")

    for constant in graph.initializer:
        constant.name = names[constant.name]
    in_order = sorted(graph.initializer, key=lambda constant: constant.name)
    del graph.initializer[:]
    graph.initializer.extend(in_order)


def _pad_explicitly(node: Any) -> None:  # noqa: ANN401
    """ONNX Runtime lacks "same" padding for dilated kernels: at stride 1, dilation x (size - 1) / 2 on each side."""
    settings = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in settings and "dilations" in settings and max(settings["dilations"].ints) > 1:
        sizes = zip(settings["dilations"].ints, settings["kernel_shape"].ints, strict=True)
        around = [dilation * (size - 1) // 2 for dilation, size in sizes]
        node.attribute.remove(settings["auto_pad"])
        node.attribute.add(name="pads", ints=around * 2, type=settings["dilations"].type)
