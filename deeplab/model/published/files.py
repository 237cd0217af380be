"""Files of weights by their content: of PyTorch, .safetensors, of Keras, TensorFlow's checkpoints."""

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab.errors import DataError, UsageError
from deeplab.model.published.torch_file import read_torch

SAFETENSORS = ".safetensors"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def is_of_keras(path: Path) -> bool:
    """Whether Keras wrote the file: HDF5, or a .keras archive; FileNotFoundError without one."""
    with path.open("rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):  # damaged: `read_torch` says how
        return False


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that is not Keras's, by name.

    `path` is a file of PyTorch, a .safetensors file, or a checkpoint of TensorFlow: the common part of its files'
    names, one of these files, or their folder.

    Raises:
        DataError: no such file, several checkpoints of which none is the latest, or as `read_torch`.
        UsageError: a .safetensors file, and its package is not installed.
    """
    checkpoint = _checkpoint(path)
    if checkpoint is not None:
        return _read_checkpoint(checkpoint)
    if not path.is_file():
        raise DataError(f"{path}: no such file, and no checkpoint of TensorFlow")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else read_torch(path)


def _checkpoint(path: Path) -> str | None:
    """The name that TensorFlow gives to a checkpoint, if there is one."""
    if path.is_dir():
        newest = tf.train.latest_checkpoint(str(path))  # of a file `checkpoint`, which names it
        found = sorted(path.glob("*.index"))
        if newest is None and len(found) > 1:
            raise DataError(f"{path}: {len(found)} checkpoints; name one, for example {found[-1].with_suffix('')}")
        return newest or (str(found[0].with_suffix("")) if found else None)
    base = path.name.partition(".data-")[0].removesuffix(".index")
    return str(path.with_name(base)) if path.with_name(f"{base}.index").is_file() else None


def _read_checkpoint(path: str) -> dict[str, np.ndarray]:
    try:
        reader = tf.train.load_checkpoint(path)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # the type of TensorFlow's exception depends on the damaged byte
        raise DataError(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:200]})") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError  # noqa: PLC0415  an extra
        from safetensors.numpy import load_file  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"{path}: safetensors is not installed: pip install '.[weights]'") from error
    try:
        return load_file(path)
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a .safetensors file: {error}") from error
