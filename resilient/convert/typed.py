"""Trees as typed JSON, with the tensors outside of it: what the formats that hold nothing but tensors keep beside them.

The form is that of a snapshot's image, see :mod:`resilient.snapshot.tree`.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, Tree
from resilient.convert.lazy import Reshaped
from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree as trees
from resilient.snapshot.image import Layout
from resilient.worker.leaves import TensorCollector, TensorSource

KEY = "resilient.state"
"""Under which it stands in the metadata of others' formats."""


class Names:
    """Takes the tensors out of a tree, and gives each a name of its own.

    :param dtypes: that can be stored; None for all.
    :ivar tensors: by name, those with several names once.
    :ivar again: the other names of these.
    """

    def __init__(self, dtypes: Container[torch.dtype] | None = None) -> None:
        self.tensors: dict[str, LazyTensor] = {}
        self.again: dict[str, LazyTensor] = {}
        self._dtypes = dtypes
        self._known: dict[int, str] = {}
        self._others = TensorCollector()

    def __call__(self, path: str, value: Any) -> dict[str, Any] | None:
        """For :func:`resilient.snapshot.tree.encode`."""
        if not isinstance(value, LazyTensor):
            return self._others(path, value)
        if self._dtypes is not None and value.dtype not in self._dtypes:
            raise StateError(
                f"the tensor at {path} is of type {value.dtype}, which safetensors cannot hold",
                "convert it with --dtype, leave it out with --only, or write --to torch or --to dcp",
            )
        name = self._named(path, value)
        if value.is_array:
            return {"$array": [name, list(value.shape)]}
        return {"$tensor": name} if value.is_contiguous else {"$strided": [name, list(value.stride)]}

    def _named(self, path: str, value: LazyTensor) -> str:
        own, number = path, 2
        while own in self.tensors or own in self.again:  # a key may have dots in it
            own, number = f"{path}~{number}", number + 1
        known = self._known.setdefault(id(value), own)
        (self.tensors if known == own else self.again)[own] = value
        return known


def encoded(
    tree: Tree, *, allow_pickle: bool, dtypes: Container[torch.dtype] | None = None, path: str = ""
) -> tuple[Any, Names]:
    """The tree as JSON, and its tensors.

    :raises StateError: something has no exact form; the message names its path.
    """
    names = Names(dtypes)
    return trees.encode(tree, names, path=path, allow_pickle=allow_pickle), names


class Tensors:
    """Gives the tensors back to a tree; what was one tensor is one again."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self._tensors = tensors
        self._given: dict[str, LazyTensor] = {}
        self._others = TensorSource(memoryview(b""), Layout(b"", {}, 0))

    def __call__(self, tag: str, payload: Any) -> Any:
        """For :func:`resilient.snapshot.tree.decode`."""
        if tag not in {"$tensor", "$strided", "$array"}:
            return self._others(tag, payload)
        key = json.dumps([tag, payload])
        if key not in self._given:
            try:
                self._given[key] = self._made(tag, payload)
            except (KeyError, ValueError, TypeError) as error:
                raise SnapshotCorrupt(f"the state speaks of a tensor that is not there: {error}") from error
        return self._given[key]

    def _made(self, tag: str, payload: Any) -> LazyTensor:
        if tag == "$tensor":
            return self._tensors[payload]
        name, numbers = payload
        tensor = self._tensors[name]
        if tag == "$array":
            return Reshaped(tensor, numbers, is_array=True)
        return Reshaped(tensor, tensor.shape, numbers)


def decoded(body: Any, tensors: Mapping[str, LazyTensor], *, allow_pickle: bool) -> Tree:
    """The tree again.

    :raises SnapshotCorrupt: the JSON has not this form, or speaks of tensors that are not there.
    :raises StateError: it holds a pickle.
    """
    return trees.decode(body, Tensors(tensors), allow_pickle=allow_pickle)
