"""The hash of a batch: two runs that see the same data have the same, so that a replay can tell whether it does.

It is an xxh3-64 (https://xxhash.com) over everything in the batch that has bytes: tensors and arrays with their types
and shapes, strings and numbers, in lists, dictionaries, dataclasses and tuples. Up to 4 MiB of a batch are hashed
whole; of a larger one evenly spread pieces of so much in all are, and every shape. Nothing waits for a device: of a
tensor on an accelerator the shape counts alone. Objects that have no such form are left out.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import UserDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xxhash

_WHOLE = 4 << 20  # bytes
_PIECE = 4096
_MOST_OBJECTS = 1 << 14
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Digest = Any


class BatchHash:
    """Hashes batches. One that cannot be read at all is warned of once."""

    def __init__(self) -> None:
        self._warned = False

    def of(self, batch: Any) -> float | None:
        """The top 53 bits, which a float holds exactly; None when there is nothing in it to hash."""
        try:
            return hash_of(batch)
        except Exception as error:  # noqa: BLE001  a script's own classes may do anything, and training goes on
            if not self._warned:
                self._warned = True
                warnings.warn(f"the batches cannot be hashed, and are not: {error!r}", stacklevel=2)
            return None


def hash_of(batch: Any) -> float | None:
    leaves = _Leaves()
    leaves.add(batch)
    if not leaves.found:
        return None
    digest = xxhash.xxh3_64("\0".join(leaves.words).encode(errors="surrogatepass"))
    whole = leaves.size <= _WHOLE
    for array in leaves.arrays:
        _feed(digest, array, array.nbytes if whole else max(_PIECE, _WHOLE * array.nbytes // leaves.size))
    return float(digest.intdigest() >> 11)


class _Leaves:
    """What a batch is made of.

    :ivar words: its form, with all numbers and strings.
    :ivar size: bytes in ``arrays``.
    :ivar found: whether there is any content.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.size = 0
        self.found = False
        self._objects = 0

    def add(self, value: Any) -> None:
        self._objects += 1
        if self._objects > _MOST_OBJECTS:
            return
        if isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, (list, tuple)):
            self._all(type(value).__name__, value)
        elif isinstance(value, (dict, UserDict)):
            self._all("dict", (part for item in value.items() for part in item))
        elif value is None or isinstance(value, (str, int, float, complex)):
            self.words.append(f"{type(value).__name__} {value!r}")
            self.found |= value is not None
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(np.asarray(value))
        elif isinstance(value, (bytes, bytearray)):
            self._array(np.frombuffer(value, np.uint8))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._all(type(value).__name__, (getattr(value, field.name) for field in dataclasses.fields(value)))

    def _all(self, name: str, values: Iterable[Any]) -> None:
        self.words.append(f"({name}")
        for value in values:
            self.add(value)
        self.words.append(")")

    def _tensor(self, tensor: torch.Tensor) -> None:
        if type(tensor) is not torch.Tensor:
            tensor = tensor.as_subclass(torch.Tensor)
        self.words.append(f"{tensor.dtype}{tuple(tensor.shape)}")
        if not tensor.is_cpu or tensor.layout is not torch.strided or tensor.is_quantized:
            return
        tensor = tensor.detach()
        try:
            array = tensor.numpy()
        except (TypeError, RuntimeError):  # a type that numpy has not, or a lazy conjugate
            tensor = tensor.resolve_conj().resolve_neg()
            array = tensor.numpy() if tensor.is_complex() else tensor.view(_INTEGERS[tensor.itemsize]).numpy()
        self._keep(array)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self.words.append(f"{array.dtype}{array.shape}")
        if not array.dtype.hasobject:
            self._keep(array)

    def _keep(self, array: np.ndarray[Any, Any]) -> None:
        self.found = True
        if array.nbytes:
            self.arrays.append(array)
            self.size += array.nbytes


def _feed(digest: Digest, array: np.ndarray[Any, Any], most: int) -> None:
    """Hash at least a piece of an array, and at most about ``most`` bytes."""
    if array.nbytes <= most:
        digest.update(array if array.flags.c_contiguous else np.ascontiguousarray(array))
    elif array.flags.c_contiguous:
        _feed_pieces(digest, array.data.cast("B"), most // _PIECE)
    elif array.T.flags.c_contiguous:
        _feed(digest, array.T, most)
    else:  # it does not lie in one piece, and is too large to be copied
        rows = max(1, min(len(array), most * len(array) // array.nbytes))
        for row in range(rows):
            _feed(digest, array[row * (len(array) - 1) // max(1, rows - 1)], most // rows)


def _feed_pieces(digest: Digest, data: memoryview, count: int) -> None:
    count = max(1, count)
    for piece in range(count):
        start = piece * (len(data) - _PIECE) // max(1, count - 1)
        digest.update(data[start : start + _PIECE])
