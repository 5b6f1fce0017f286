"""Checkpoints of every format as one thing: a tree of state whose tensors are read one at a time.

A *tree* is what a ``state_dict()`` is: dictionaries, lists, tuples, sets and scalars, nested in any way. Where a tensor
stands in it, there is a :class:`LazyTensor`, which knows its type and shape and reads its elements when they are asked
for. The same lazy tensor at two places is one tensor with two names (tied weights), and stays one where the format
that is written can say so.

A *source* finds such a tree in a file or directory; a *target* writes one. Neither knows of the other, so each format
is written once and converts to and from all others. What is common to all conversions (nothing is overwritten, nothing
is seen half-written, what was written is read back and compared) is in :mod:`resilient.convert.conversion`; which
formats there are, in :mod:`resilient.convert.formats`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch

from resilient.errors import StateError
from resilient.snapshot.storage import Storage

Tree = Any
"""Nested containers and scalars, with a :class:`LazyTensor` for each tensor and each numpy array."""

_PAIRS = frozenset({dict, OrderedDict, Counter})
_SEQUENCES = frozenset({list, tuple, set, frozenset, torch.Size})
_MAX_DEPTH = 100


class LazyTensor(ABC):
    """A tensor that lies somewhere, and is read when it is needed.

    :param stride: in elements; by default that of a contiguous tensor. Always dense: no two elements share a place, and
        there are no gaps, so that a tensor in ``channels_last`` comes back as one, and a slice as a tensor of its own.
    :param is_array: it is a numpy array in the state, and shall be one again where that is possible.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        shape: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        is_array: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        usual = contiguous_stride(self.shape)
        self.stride = usual if stride is None or not is_dense(self.shape, stride) else tuple(stride)
        self.is_array = is_array

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        usual = contiguous_stride(self.shape)
        return all(
            own == other for own, other, length in zip(self.stride, usual, self.shape, strict=True) if length != 1
        )

    @abstractmethod
    def read(self) -> torch.Tensor:
        """The tensor on the CPU, of this type, shape and stride, in memory of its own: what was read before may be
        forgotten, so that no more than a few tensors are ever held.

        :raises CheckpointUnreadable: it is damaged or missing; or SnapshotCorrupt.
        """

    def view(self) -> torch.Tensor:
        """The tensor as a view of the file where the format allows that, for those who keep it; otherwise as read."""
        return self.read()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype} {list(self.shape)}>"


class HeldTensor(LazyTensor):
    """A tensor that is in memory already; for small ones, such as counters."""

    def __init__(self, tensor: torch.Tensor, *, is_array: bool = False) -> None:
        super().__init__(tensor.dtype, tensor.shape, tensor.stride(), is_array=is_array)
        self._tensor = tensor

    def read(self) -> torch.Tensor:
        return empty(self).copy_(self._tensor)


@dataclass(frozen=True)
class Reading:
    """How a source may read.

    :param allow_pickle: state that has no other form may be unpickled, which can run code.
    """

    allow_pickle: bool = False


@dataclass(frozen=True)
class Writing:
    """How a target is to write; what does not concern a format, it does not look at.

    :param allow_pickle: state that has no other form may be pickled.
    :param shard_size: the most bytes of tensors in one file, where the format has several; None for its own default.
    :param hf_config: a ``config.json``, or a directory that has one, to lie beside a model.
    :param step: which the state is of; None where nobody knows.
    """

    allow_pickle: bool = False
    shard_size: int | None = None
    hf_config: Path | None = None
    step: int | None = None


class Source(Protocol):
    """A checkpoint that is there.

    :ivar path: of its file or directory.
    :ivar tree: what it holds.
    :ivar about: what it is, in a few words: ``a snapshot of step 120 on 2 ranks``.
    :ivar step: which it is of, if it says so.
    :ivar notes: what whoever converts it should know, such as that the generators of only one rank are in the tree.
    """

    @property
    def path(self) -> Path: ...
    @property
    def tree(self) -> Tree: ...
    @property
    def about(self) -> str: ...
    @property
    def step(self) -> int | None: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def verify(self) -> None:
        """Find damage as far as the format shows any without its tensors being read: files and their sizes.

        :raises CheckpointUnreadable: naming the file, the tensor and what to do; or SnapshotCorrupt.
        """
        ...


@dataclass(frozen=True)
class Fitted:
    """A tree as a format can hold it.

    :ivar tree: what reading it back will give, but for the form of the scalars where a note says so.
    :ivar notes: what had to be changed for that.
    """

    tree: Tree
    notes: Sequence[str] = field(default_factory=tuple)


class Target(Protocol):
    """Writes one format."""

    def fit(self, tree: Tree) -> Fitted:
        """The tree as this format holds it. Reads no tensor.

        :raises StateError: it cannot hold something; the message names its path.
        """
        ...

    def size(self, tree: Tree) -> int:
        """About how many bytes are going to be written."""
        ...

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        """Write what :meth:`fit` gave to ``path``, a new file or directory that nobody looks at yet, reading each
        tensor once and none before the one before is written. Durable when this returns.

        :raises OSError: as the storage raises it; or StorageFull.
        """
        ...


@dataclass(frozen=True)
class Format:
    """A format: how to find out that something is of it, and how to read and write it.

    :param name: on the command line.
    :param words: for people.
    :param recognises: whether a file or directory has this structure. Looks at names and first bytes only.
    :param target: None where it is only read.
    :param suffix: of a file; nothing where it is a directory.
    """

    name: str
    words: str
    recognises: Callable[[Path], bool]
    source: Callable[[Path, Reading], Source]
    target: Callable[[Writing], Target] | None = None
    suffix: str = ""


def walk(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree that is no container, with its path, whose parts are separated by dots."""
    if type(tree) in _PAIRS:
        items: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif type(tree) in _SEQUENCES:
        items = iter(enumerate(tree))
    else:
        yield path, tree
        return
    for key, item in items:
        yield from walk(item, f"{path}.{key}" if path else str(key))


def tensors_of(tree: Tree) -> dict[str, LazyTensor]:
    """The tensors of a tree by path; those with several names under each of them."""
    return {path: item for path, item in walk(tree) if isinstance(item, LazyTensor)}


def distinct(tree: Tree) -> list[LazyTensor]:
    """The tensors of a tree, each of them once."""
    return list({id(tensor): tensor for tensor in tensors_of(tree).values()}.values())


def changed(tree: Tree, change: Callable[[str, Any], Any], path: str = "", depth: int = 0) -> Tree:
    """The same containers with everything in them changed, which ``change`` is given with its path.

    A tensor with several names stays one only if ``change`` gives the same object for it.

    :raises StateError: the tree is nested too deeply, or contains itself.
    """
    if depth > _MAX_DEPTH:
        raise StateError(f"the state at {path or 'the root'} is nested deeper than {_MAX_DEPTH} levels")

    def inside(key: Any, item: Any) -> Any:
        return changed(item, change, f"{path}.{key}" if path else str(key), depth + 1)

    kind = type(tree)
    if kind in _PAIRS:
        made: dict[Any, Any] = kind()
        for key, item in tree.items():
            made[key] = inside(key, item)
        return made
    if kind in _SEQUENCES:
        return (tuple if kind is torch.Size else kind)(inside(key, item) for key, item in enumerate(tree))
    return change(path, tree)


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether the elements fill a row of memory, each place once."""
    expected = 1
    for step, length in sorted(zip(stride, shape, strict=True)):
        if length != 1 and step != expected:
            return False
        expected = step * length if length != 1 else expected
    return True


def empty(tensor: LazyTensor) -> torch.Tensor:
    """Memory for a tensor, of its type, shape and stride."""
    return torch.empty_strided(tensor.shape, tensor.stride, dtype=tensor.dtype, device="cpu")
