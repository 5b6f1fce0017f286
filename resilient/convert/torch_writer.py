"""Writes what ``torch.save`` writes, tensor by tensor: ``torch.load(path, weights_only=True, mmap=True)`` reads it.

The pickle comes first and says of each tensor in which record its elements are; the records follow, each written as
soon as its tensor was read.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch

from resilient.convert.checkpoint import Fitted, LazyTensor, Tree, Writing, changed, distinct, walk
from resilient.convert.lazy import Reshaped, memory_of
from resilient.convert.zip_writer import ZipWriter
from resilient.errors import StateError
from resilient.snapshot.storage import Storage, Writer

_TYPED = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.complex128: torch.ComplexDoubleStorage,
    torch.complex64: torch.ComplexFloatStorage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}
"""Types that torch pickles with a storage of their own; the newer ones have bytes and say their type themselves."""

_LOADED_BY_WEIGHTS_ONLY = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, LazyTensor)
_FOLDER = "archive"
_PROTOCOL = 2  # which torch.save uses, and all that the loader of weights knows


class TorchTarget:
    """A file of ``torch.save``.

    Unless pickle is allowed, only what ``torch.load`` gives back with its defaults is written: numpy's arrays become
    tensors, and its numbers Python's.
    """

    def __init__(self, writing: Writing) -> None:
        self._allow_pickle = writing.allow_pickle

    def fit(self, tree: Tree) -> Fitted:
        if self._allow_pickle:
            return Fitted(tree)
        arrays: dict[int, LazyTensor] = {}
        notes = Counter[str]()

        def change(path: str, value: Any) -> Any:
            if isinstance(value, LazyTensor) and value.is_array:
                notes["numpy arrays are written as tensors"] += id(value) not in arrays
                return arrays.setdefault(id(value), Reshaped(value, value.shape))
            if isinstance(value, np.generic) and isinstance(value.item(), (bool, int, float, complex)):
                notes["numbers of numpy are written as Python's"] += 1
                return value.item()
            if type(value) in _LOADED_BY_WEIGHTS_ONLY or isinstance(value, LazyTensor):
                return value
            raise _needs_pickle(path, value)

        fitted = changed(tree, change)
        _require_no_frozen_sets(fitted)
        return Fitted(fitted, [f"{text}, which need no pickle: {count}" for text, count in notes.items()])

    def size(self, tree: Tree) -> int:
        tensors = distinct(tree)
        return sum(tensor.size for tensor in tensors) + 512 * len(tensors) + len(_pickled(tree)[0]) + 4096

    def write(self, path: Any, tree: Tree, storage: Storage) -> None:
        encoded, tensors = _pickled(tree)

        def produce(append: Writer) -> None:
            archive = ZipWriter(append)
            archive.add(f"{_FOLDER}/data.pkl", memoryview(encoded))
            archive.add(f"{_FOLDER}/byteorder", memoryview(b"little"))
            for key, tensor in enumerate(tensors):
                archive.add(f"{_FOLDER}/data/{key}", memory_of(_as_planned(tensor)))
            archive.add(f"{_FOLDER}/version", memoryview(b"3\n"))
            archive.close()

        storage.write(path, produce)


def _as_planned(tensor: LazyTensor) -> torch.Tensor:
    found = tensor.read()
    if found.stride() != tensor.stride and not found.is_contiguous():
        found = found.contiguous()
    return found


def _require_no_frozen_sets(tree: Tree, path: str = "") -> None:
    """The one kind of container that the loader of weights does not know."""
    if isinstance(tree, frozenset):
        raise _needs_pickle(path, tree)
    if isinstance(tree, dict):
        for key, item in tree.items():
            for _, part in walk(key):
                if type(part) not in _LOADED_BY_WEIGHTS_ONLY:
                    raise _needs_pickle(f"{path}.<key>", part)
            _require_no_frozen_sets(item, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for index, item in enumerate(tree):
            _require_no_frozen_sets(item, f"{path}.{index}" if path else str(index))


def _needs_pickle(path: str, value: Any) -> StateError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return StateError(
        f"the state at {path or 'the root'} is a {kind}, which torch.load refuses unless weights_only=False is said",
        "leave it out with --only, or pickle it with --allow-pickle",
    )


class _Record:
    """Stands for the memory of a tensor in the pickle.

    :ivar kind: class of the storage.
    :ivar count: of its elements, or of bytes for those that have no class of their own.
    """

    def __init__(self, key: int, tensor: LazyTensor) -> None:
        self.key = str(key)
        self.kind = _TYPED.get(tensor.dtype, torch.UntypedStorage)
        self.count = tensor.size // (tensor.dtype.itemsize if tensor.dtype in _TYPED else 1)


class _Pickler(pickle.Pickler):
    def __init__(self, into: io.BytesIO) -> None:
        super().__init__(into, _PROTOCOL)
        self.tensors: list[LazyTensor] = []

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Record):
            return ("storage", value.kind, value.key, "cpu", value.count)
        return None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, LazyTensor):
            return NotImplemented
        if value.is_array:
            return torch.Tensor.numpy, (Reshaped(value, value.shape),)
        record = _Record(len(self.tensors), value)
        self.tensors.append(value)
        place: tuple[Any, ...] = (record, 0, value.shape, value.stride, False, OrderedDict())
        if value.dtype in _TYPED:
            return torch._utils._rebuild_tensor_v2, place  # noqa: SLF001  what torch.save writes
        return torch._utils._rebuild_tensor_v3, (*place, value.dtype)  # noqa: SLF001  likewise


def _pickled(tree: Tree) -> tuple[bytes, list[LazyTensor]]:
    """The pickle, and the tensors in the order of their records."""
    into = io.BytesIO()
    pickler = _Pickler(into)
    try:
        pickler.dump(tree)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise StateError(f"the state cannot be pickled: {error}", "leave it out with --only") from error
    return into.getvalue(), pickler.tensors
