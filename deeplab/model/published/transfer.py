"""Puts tensors of a file into a network: by name, each exactly once, or not at all."""

import logging
import re
from collections.abc import Iterator, Mapping

import keras
import ml_dtypes
import numpy as np

from deeplab.errors import DataError
from deeplab.model.published.names import Names

logger = logging.getLogger("deeplab")


def transfer(model: keras.Model, tensors: Mapping[str, np.ndarray], names: Names, source: str) -> None:
    """Gives every weight of `model` its tensor.

    Args:
        model: the network, or its backbone.
        tensors: what the file holds, by its names.
        names: which of them belongs where.
        source: the flag or the file, for errors.

    Raises:
        DataError: a tensor is missing, has another shape, is not of finite floating-point numbers, or has no place;
            the message names the first one. No weight has been changed then.
    """
    left = {name: each for name, each in tensors.items() if not re.fullmatch(names.left_out, name)}
    values = []
    for layer in leaves(model):
        for variable in layer.weights:
            name = names.layout.name(names.module(layer.name), layer, variable.name)
            if name not in left:
                raise DataError(
                    f"{source}: no tensor {name} for {layer.name}, which has the shape {tuple(variable.shape)}; are "
                    "these the weights of another network?"
                )
            tensor = left.pop(name)
            axes = names.layout.axes(layer, len(variable.shape))
            needed = tuple(variable.shape[axis] for axis in np.argsort(axes))
            if tensor.shape != needed:
                raise DataError(f"{source}: {name} has the shape {tensor.shape}, and {layer.name} needs {needed}")
            value = _as_float32(np.transpose(tensor, axes), f"{source}: {name}")
            if variable.name == "kernel" and layer.name in names.adjusted:
                value = names.adjusted[layer.name](value)
            values.append((variable, value))
    for name, tensor in left.items():
        raise DataError(f"{source}: {name} {tensor.shape} has no place in this network")
    for variable, value in values:
        variable.assign(value)


def _as_float32(tensor: np.ndarray, where: str) -> np.ndarray:
    """Raises DataError for other numbers than floating-point ones, and for those that are not finite."""
    if not _is_floating(tensor.dtype):
        raise DataError(f"{where} is of {tensor.dtype}, and weights are floating-point numbers")
    with np.errstate(over="ignore"):
        value = tensor.astype(np.float32)
    if not np.isfinite(value).all():
        raise DataError(f"{where} has numbers that are not finite as float32; the weights cannot be used")
    return value


def _is_floating(dtype: np.dtype) -> bool:
    try:
        ml_dtypes.finfo(dtype)  # knows NumPy's and its own
    except ValueError:
        return False
    return dtype.kind != "c"


def leaves(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer
