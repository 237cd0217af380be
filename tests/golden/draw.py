"""Weights drawn by name, the same for every implementation of the network; needs only NumPy."""

import zlib

import numpy as np


def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable of the network: float32 of `shape`, from a generator that is seeded with its path.

    `path` is "LAYER/VARIABLE" with Keras's names, `shape` is Keras's: kernels [height, width, in, out]. The scales keep
    the activations of a few dozen residual blocks well within float32's range.
    """
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    kind = path.rpartition("/")[2]
    if kind == "kernel":
        values = rng.normal(0.0, np.sqrt(1.0 / np.prod(shape[:-1])), shape)
    elif kind in ("gamma", "moving_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0.0, 0.2, shape)
    return values.astype(np.float32)


def draw_torch(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a PyTorch network, by its name and shape there: as `draw`; kernels are [out, in, height, width]."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        values = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
    elif name.endswith(("weight", "running_var")):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0.0, 0.2, shape)
    return values.astype(np.float32)


def image(height: int, width: int) -> np.ndarray:
    """Smooth colours and noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(y / (7 + 5 * channel) + x / (19 - 4 * channel)) for channel in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 15, (height, width, 3)), 0, 255).astype(np.uint8)
