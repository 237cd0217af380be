"""Writes files as torch.save does, without PyTorch: a zip archive with a pickle and a record for each storage."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np


class _Storage:
    def __init__(self, array):
        self.array = array


class _Tensor:
    def __init__(self, array):
        self.storage, self.array = _Storage(array), array

    def __reduce__(self):
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        arguments = (self.storage, 0, self.array.shape, strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.records = []

    def persistent_id(self, item):
        if not isinstance(item, _Storage):
            return None
        kind = {"f": "FloatStorage", "i": "LongStorage"}[item.array.dtype.kind]
        self.records.append(item.array.tobytes())
        return "storage", getattr(sys.modules["torch"], kind), str(len(self.records) - 1), "cpu", item.array.size


def write_pth(path, tensors, monkeypatch):
    """A state dictionary of arrays: float32 or int64."""
    names = {"torch": ("FloatStorage", "LongStorage"), "torch._utils": ("_rebuild_tensor_v2",)}
    for module, contents in names.items():
        stub = types.ModuleType(module)
        for name in contents:
            setattr(stub, name, type(name, (), {"__module__": module}))
        monkeypatch.setitem(sys.modules, module, stub)
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(OrderedDict((name, _Tensor(np.ascontiguousarray(array))) for name, array in tensors.items()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        for number, record in enumerate(pickler.records):
            archive.writestr(f"archive/data/{number}", record)
    for module in names:
        monkeypatch.delitem(sys.modules, module)
