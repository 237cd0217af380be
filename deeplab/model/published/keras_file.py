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
    except DataError:
        raise
    except Exception as error:  # h5py and zipfile raise whatever a damaged byte leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as a Keras file: {reason}") from error
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
        is_whole = "model_weights" in list(file)
        if is_whole or _names(file, _OF_LAYER):
            yield from _read_by_attributes(_item(file, "model_weights") if is_whole else file)
        else:
            yield from _read_by_place(path, file)


def _read_by_attributes(group: h5py.Group) -> Iterator[tuple[str, str, np.ndarray]]:
    """From a group for each layer, or for each model in the model."""
    for layer in _names(group, _OF_LAYER):
        weights = _item(group, layer)
        stored = _names(weights, "weight_names")
        names = [name.removesuffix(":0") for name in stored]
        variables = [name.rpartition("/")[2].removeprefix("depthwise_") for name in names]
        is_one = len(set(variables)) == len(variables)  # a model has several kernels
        for place, name, variable in zip(stored, names, variables, strict=True):
            owner = layer if is_one else name.split("/")[-2]
            yield owner, variable, _value(weights, place)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names in an attribute, or in several that are numbered if it is longer than HDF5 allows."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    return [_text(name) for part in parts for name in np.atleast_1d(group.attrs[part]).tolist()]


def _read_by_place(path: Path, file: h5py.File) -> Iterator[tuple[str, str, np.ndarray]]:
    """From groups `vars` whose attribute is the layer's name, and whose variables are numbered."""
    groups: list[h5py.Group] = []
    # It follows hard links only.
    file.visititems(lambda name, item: groups.append(item) if name.endswith("/vars") else None)
    for group in groups:
        if not len(group) or group.name.startswith("/optimizer"):
            continue
        if "name" not in group.attrs:
            raise DataError(
                f"{path}: written by a Keras that kept no names of layers; load and save it with Keras 3.15"
            )
        values = [_value(group, str(index)) for index in range(len(group))]
        is_norm = len(values) == len(_NORM) and all(value.ndim == 1 for value in values)
        for variable, value in zip(_NORM if is_norm else _OTHERS, values, strict=False):
            yield _text(group.attrs["name"]), variable, value


def _item(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """What lies in a group of this file; ValueError for what another file may hold: beyond links and virtual data."""
    item = group
    for name in filter(None, path.split("/")):
        if item.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{path}: {name} is a link, which is not followed")
        item = item[name]
    if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
        raise ValueError(f"{path} is kept in other files")
    return item


def _value(group: h5py.Group, path: str) -> np.ndarray:
    stored = _item(group, path)
    if not isinstance(stored, h5py.Dataset):
        raise ValueError(f"{path} is a group, and a weight is a dataset")
    return np.asarray(stored[()])


def _text(name: str | bytes) -> str:
    if not isinstance(name, str | bytes):
        raise ValueError(f"{name!r} is not the name of a layer or weight")
    return name.decode() if isinstance(name, bytes) else name
