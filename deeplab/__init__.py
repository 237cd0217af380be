"""DeepLab v3 (arXiv 1706.05587) semantic segmentation with TensorFlow 2 and Keras 3.

As a library: `deeplab.load(folder).segment(image)`; see `deeplab.api`. It is imported on first use, so that
`import deeplab` is cheap: it only sets an environment variable for TensorFlow, see `deeplab.cpu_kernels`.
"""

import importlib
from typing import TYPE_CHECKING

from deeplab import cpu_kernels

if TYPE_CHECKING:  # for editors and type checkers
    from deeplab.api import Inference, Model, ModelConfig, build_deeplabv3, load, read_image

cpu_kernels.choose_kernels()

__version__ = "0.2.0.dev0"

__all__ = ["Inference", "Model", "ModelConfig", "build_deeplabv3", "load", "read_image"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("deeplab.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
