"""Reads PyTorch's files of weights without PyTorch; nothing in a file is executed.

A file of `torch.save` is a zip archive with a pickle, data.pkl, and one uncompressed record for each storage. A
pickle is a program: it may call any function by its name. The unpickler here knows two calls, to rebuild a tensor and
a parameter, and one class, `OrderedDict`; whatever else a pickle names is refused.
"""

import io
import math
import pickle
import pickletools
import shlex
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from deeplab.errors import DataError, shortened

_STORAGES: dict[str, Any] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "model_ema", "net")
"""Keys under which training scripts keep the weights, beside an optimizer and the like; the first one counts."""

_LARGEST_PICKLE = 1 << 26
"""Bytes; one of a thousand tensors has a tenth of a megabyte."""

_CONVERT = (
    "python -c \"import sys, torch; x = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    "x = x.get('model', x.get('state_dict', x)) if isinstance(x, dict) else x; "
    'torch.save(x if isinstance(x, dict) else x.state_dict(), sys.argv[2])" {path} NEW.pth'
)
"""Old files and whole modules become files of tensors. It runs what the file says, as PyTorch does."""


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name; unwrapped if a training script wrapped it.

    Raises:
        DataError: not a zip file of `torch.save`, or one that holds more than tensors and plain values.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                state = _unwrapped(_Unpickler(archive).load())
        except Exception as error:  # an archive or a pickle that was tampered with may raise anything
            reason = shortened((str(error).splitlines() or [type(error).__name__])[0], 200)
            raise DataError(
                f"{path}: not a file of tensors that torch.save writes since version 1.6 ({reason}); if you trust it, "
                f"convert it where PyTorch is installed: {_CONVERT.format(path=shlex.quote(str(path)))}"
            ) from error
    if not state or not all(isinstance(name, str) for name in state):
        raise DataError(f"{path}: no tensors by name in it")
    return state


def _unwrapped(content: object) -> dict[str, np.ndarray]:
    """The tensors of the innermost dictionary that a training script wrapped; empty if there are none."""
    # Each wrapper once: a pickle may hold a dictionary that contains itself.
    for _ in range(len(_WRAPPERS) + 1):
        if not isinstance(content, dict):
            break
        tensors = {name: each for name, each in content.items() if isinstance(each, np.ndarray)}
        if tensors:
            return tensors
        content = next((content[key] for key in _WRAPPERS if key in content), None)
    return {}


class _Storage(NamedTuple):
    """What a tensor is a view of: all of a flat array. A pickle can neither make one nor change it."""

    values: np.ndarray


class _Unpickler(pickle.Unpickler):
    """Unpickles the data.pkl of an archive into dictionaries, plain values and read-only arrays."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        (pickled,) = (each for each in archive.infolist() if each.filename.rpartition("/")[2] == "data.pkl")
        self._archive = archive
        self._root = pickled.filename.removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        if f"{self._root}byteorder" in archive.namelist() and self._read("byteorder") != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")
        if pickled.file_size > _LARGEST_PICKLE:
            raise pickle.UnpicklingError(f"data.pkl has {pickled.file_size} bytes")
        content = self._read("data.pkl")
        # Python allocates a memo as long as its largest index, and what is said to follow, before it is there.
        for opcode, argument, _ in pickletools.genops(content):
            if "PUT" in opcode.name and (argument or 0) > len(content):
                raise pickle.UnpicklingError(f"a memo of {argument} entries")
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  as the base class
        """The few things that a pickle of tensors names; UnpicklingError for all others."""
        if module == "torch" and name in _STORAGES:
            return name
        # New functions each time: a pickle may set attributes of what it is given.
        known: dict[tuple[str, str], Callable] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _tensor(*arguments[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not a tensor")
        return known[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        """A storage, with a flat array."""
        _, kind, key, _, count = pid
        if key not in self._storages:
            self._storages[key] = _Storage(np.frombuffer(self._read(f"data/{key}"), _STORAGES[kind])[:count])
        return self._storages[key]

    def _read(self, name: str) -> bytes:
        if self._archive.getinfo(self._root + name).compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"{name} is compressed")
        return self._archive.read(self._root + name)


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """A view of a storage; UnpicklingError if it would leave it, or if it is no storage."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor of a {type(storage).__name__} instead of a storage")
    values = storage.values
    if any(type(number) is not int for number in (offset, *size, *stride)):  # those of NumPy overflow
        raise pickle.UnpicklingError("a tensor whose size, stride or offset is no number")
    if min((offset, *size, *stride), default=0) < 0 or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of size {size}, stride {stride} and offset {offset}")
    if not math.prod(size):
        return np.zeros(size, values.dtype)
    last = offset + sum((number - 1) * step for number, step in zip(size, stride, strict=True))
    if last >= len(values):
        raise pickle.UnpicklingError(f"a tensor reaches element {last} of {len(values)}")
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
