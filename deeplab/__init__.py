"""DeepLab v3 (arXiv 1706.05587) semantic segmentation with TensorFlow 2 and Keras 3.

As a library: `deeplab.load(folder).segment(image)`; see `deeplab.api`, which is imported when it is first asked for,
so that `import deeplab` costs nothing.
"""

import importlib

_API = ("Inference", "Model", "ModelConfig", "build_deeplabv3", "load")


def __getattr__(name: str) -> object:
    if name in _API:
        return getattr(importlib.import_module("deeplab.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_API]
