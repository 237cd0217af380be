"""Reads the weights of Keras's files by the names of layers: of whole models, of weights alone, of nested models."""

import io
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

from deeplab.errors import DataError
from deeplab.model.published.names import keras_layer

logger = logging.getLogger("deeplab")

_IN_ARCHIVE = "model.weights.h5"
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_OTHERS = ("kernel", "bias")
_OF_LAYER = "layer_names"
"""An attribute of the groups in which Keras 2, and Keras 3 for .h5, keeps weights."""


def read_keras(path: Path, application: keras.Model) -> dict[str, np.ndarray]:
    """The tensors of an application's layers, by "LAYER/VARIABLE"; those of other layers are left out and counted.

    Args:
        path: a .h5, .weights.h5 or .keras file.
        application: its layers with weights are looked for, wherever in the file they are.

    Raises:
        DataError: not such a file, written without names of layers, or two layers have the same name.
    """
    wanted = {keras_layer(layer.name) for layer in application.layers if layer.weights}
    tensors: dict[str, np.ndarray] = {}
    others = []
    try:
        for layer, variable, value in _read(path):
            name = f"{keras_layer(layer)}/{variable}"
            if keras_layer(layer) not in wanted:
                others.append(name)
            elif name in tensors:
                raise DataError(f"{path}: two layers are called {layer}; save the backbone alone")
            else:
                tensors[name] = value
    except (OSError, KeyError, IndexError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a Keras file: {error}") from error
    if others:
        logger.info("%s: %d tensors of other layers left out, the first is %s", path, len(others), others[0])
    return tensors


def _read(path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Layer, variable and value of each tensor of a file."""
    content: Path | io.BytesIO = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read(_IN_ARCHIVE))
    with h5py.File(content) as file:
        if "model_weights" in file or _names(file, _OF_LAYER):
            yield from _read_by_attributes(file.get("model_weights", file))
        else:
            yield from _read_by_place(path, file)


def _read_by_attributes(group: h5py.Group) -> Iterator[tuple[str, str, np.ndarray]]:
    """From a group for each layer, or for each model in the model."""
    for layer in _names(group, _OF_LAYER):
        names = [name.removesuffix(":0") for name in _names(group[layer], "weight_names")]
        variables = [name.rpartition("/")[2].removeprefix("depthwise_") for name in names]
        is_one = len(set(variables)) == len(variables)  # a model has several kernels
        for name, variable in zip(names, variables, strict=True):
            owner = layer if is_one else name.split("/")[-2]
            stored = name if name in group[layer] else f"{name}:0"
            yield owner, variable, _value(group[layer][stored])


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names in an attribute, or in several that are numbered if it is longer than HDF5 allows."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    return [_text(name) for part in parts for name in group.attrs[part]]


def _read_by_place(path: Path, file: h5py.File) -> Iterator[tuple[str, str, np.ndarray]]:
    """From groups `vars` whose attribute is the layer's name, and whose variables are numbered."""
    groups: list[h5py.Group] = []
    # Links to other places and files are not followed.
    file.visititems(lambda name, item: groups.append(item) if name.endswith("/vars") else None)
    for group in groups:
        if not len(group) or group.name.startswith("/optimizer"):
            continue
        if "name" not in group.attrs:
            raise DataError(
                f"{path}: written by a Keras that kept no names of layers; load and save it with Keras 3.15"
            )
        values = [_value(group[str(index)]) for index in range(len(group))]
        is_norm = len(values) == len(_NORM) and all(value.ndim == 1 for value in values)
        for variable, value in zip(_NORM if is_norm else _OTHERS, values, strict=False):
            yield _text(group.attrs["name"]), variable, value


def _value(stored: h5py.Dataset) -> np.ndarray:
    if stored.external:
        raise ValueError(f"{stored.name} is kept in another file")
    return stored[()]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
