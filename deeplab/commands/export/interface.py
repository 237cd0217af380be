"""What the exported files take and return."""

import tensorflow as tf

from deeplab.commands.settings import Interface


def image_spec(
    interface: Interface, batch: int | None = None, dtype: str = "uint8", channels_first: bool = False
) -> tf.TensorSpec:
    """Images [batch, height, width, 3]; those of a fixed size come one by one."""
    height, width = interface.size or (None, None)
    pixels = (3, height, width) if channels_first else (height, width, 3)
    return tf.TensorSpec([1 if interface.size else batch, *pixels], tf.as_dtype(dtype), "images")


def outputs_of(interface: Interface, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores [batch, height, width, classes] -> the outputs by name; `classes` are uint8, the others float32."""
    ways = {
        "classes": lambda: tf.cast(tf.argmax(scores, -1), tf.uint8),
        "probabilities": lambda: tf.nn.softmax(scores),
        "logits": lambda: tf.identity(scores),
    }
    return {name: ways[name]() for name in interface.outputs.split(",")}
