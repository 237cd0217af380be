"""ONNX, by tf2onnx."""

from pathlib import Path
from typing import Any

from deeplab.commands.export.saved_model import IMAGES, Segmenter

ONNX = "model.onnx"

_OPSET = 17


def write_onnx(segmenter: Segmenter, path: Path) -> None:
    """Writes the signature `images` as ONNX."""
    import tf2onnx  # noqa: PLC0415 - an extra

    model, _ = tf2onnx.convert.from_function(segmenter.segment_batch, [IMAGES], opset=_OPSET)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    path.write_bytes(model.SerializeToString())


def _pad_explicitly(node: Any) -> None:  # noqa: ANN401
    """ONNX Runtime lacks "same" padding for dilated kernels: at stride 1, dilation x (size - 1) / 2 on each side."""
    settings = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in settings and "dilations" in settings and max(settings["dilations"].ints) > 1:
        sizes = zip(settings["dilations"].ints, settings["kernel_shape"].ints, strict=True)
        around = [dilation * (size - 1) // 2 for dilation, size in sizes]
        node.attribute.remove(settings["auto_pad"])
        node.attribute.add(name="pads", ints=around * 2, type=settings["dilations"].type)
