"""What the exported files take and return."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.errors import UsageError
from deeplab.settings import setting

CLASSES_AND_PROBABILITIES = "classes,probabilities"


@dataclass(frozen=True)
class Interface:
    """What the files take and return.

    Attributes:
        size: height and width of all images; None for any.
    """

    input_size: tuple[int, ...] | None = setting(
        None,
        "HEIGHT,WIDTH of all images: for phones, accelerators and compilers, which want sizes that are known in "
        "advance. Without: any size.",
        lower=1,
        upper=16384,
    )
    outputs: str = setting(
        CLASSES_AND_PROBABILITIES,
        "What ONNX and TensorFlow Lite return for each pixel.",
        choices=(CLASSES_AND_PROBABILITIES, "classes", "probabilities", "logits"),
    )
    input_type: str = setting(
        "uint8", "Type of the pixels that ONNX and TensorFlow Lite take; in [0, 255].", choices=("uint8", "float32")
    )
    channels_first: bool = setting(False, "ONNX: images and scores are [batch, channels, height, width].")
    onnx_opset: int = setting(17, "ONNX: version of the operators.", lower=13, upper=18)

    def __post_init__(self) -> None:
        """Raises UsageError for an input size other than two numbers."""
        if self.input_size and len(self.input_size) != 2:
            raise UsageError(f"--input_size={','.join(map(str, self.input_size))}: give HEIGHT,WIDTH")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images; None for any."""
        return (self.input_size[0], self.input_size[1]) if self.input_size else None

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [height, width, 3] -> the same at the fixed size, if there is one."""
        if not self.size:
            return image
        height, width = self.size
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def images(self, batch: int | None = None, dtype: str = "uint8", channels_first: bool = False) -> tf.TensorSpec:
        """Images [batch, height, width, 3]; those of a fixed size come one by one."""
        height, width = self.size or (None, None)
        pixels = (3, height, width) if channels_first else (height, width, 3)
        return tf.TensorSpec([1 if self.size else batch, *pixels], tf.as_dtype(dtype), "images")

    def results(self, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores [batch, height, width, classes] -> the outputs by name; `classes` are uint8, the others float32."""
        ways = {
            "classes": lambda: tf.cast(tf.argmax(scores, -1), tf.uint8),
            "probabilities": lambda: tf.nn.softmax(scores),
            "logits": lambda: tf.identity(scores),
        }
        return {name: ways[name]() for name in self.outputs.split(",")}


ANY_SIZE = Interface()
