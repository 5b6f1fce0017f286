"""One conversion, whatever the formats: what is the same for all of them.

The target is made in a hidden directory beside the place where it is to be, read back and compared tensor by tensor,
and gets its name in one step. So there is all of it or nothing. A process that is killed leaves the hidden directory,
which the next conversion to that place removes: the lock on it says whether somebody still writes there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import Format, LazyTensor, Reading, Tree, Writing, changed, distinct, tensors_of
from resilient.convert.lazy import elements_of
from resilient.errors import CheckpointUnreadable, ResilientError, StorageFull, TargetNotWritable
from resilient.protocol.append import NO_ROOM
from resilient.snapshot.hashing import digest
from resilient.snapshot.storage import Storage

_SPARE_BYTES = 1 << 20
Tell = Callable[[str, int, int], None]
"""``(phase, bytes so far, bytes in all)``; the phase is ``writing`` or ``verifying``."""


def _silent(_phase: str, _done: int, _all: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Result:
    """:ivar size: bytes of all tensors, each counted once.
    :ivar tensors: how many there are, likewise.
    """

    size: int
    tensors: int
    notes: tuple[str, ...]


def write(
    tree: Tree,
    form: Format,
    path: Path,
    writing: Writing,
    *,
    tell: Tell = _silent,
    storage: Storage | None = None,
) -> Result:
    """Write a tree to ``path``, where there is nothing yet, and compare what is there then with what was read.

    :raises TargetNotWritable: there is something already, it cannot be written, or reads back as something else.
    :raises StorageFull: there is no room. Nothing is left of it in all these cases.
    :raises StateError: the format cannot hold something in the tree.
    """
    storage = storage or Storage()
    if form.target is None:
        raise TargetNotWritable(f"{form.words} can only be read", "choose another format with --to")
    require_nothing_at(path)
    target = form.target(writing)
    fitted = target.fit(tree)
    watched = _Watched(fitted.tree, tell)
    with _made_beside(path, target.size(fitted.tree), storage) as fresh:
        target.write(fresh, watched.tree, storage)
        _forget_cached(fresh)
        watched.compare(form.source(fresh, Reading(writing.allow_pickle)).tree, path)
        require_nothing_at(path)
        storage.rename(fresh, path)
    tensors = distinct(fitted.tree)
    return Result(sum(tensor.size for tensor in tensors), len(tensors), tuple(fitted.notes))


def require_nothing_at(path: Path) -> None:
    """:raises TargetNotWritable: something is there."""
    if path.exists() or path.is_symlink():
        raise TargetNotWritable(f"{path} is there already", "choose another target, or remove it")


class _Watched:
    """A tree whose tensors are remembered by their checksums when they are read, and the progress of that."""

    def __init__(self, tree: Tree, tell: Tell) -> None:
        self._tell = tell
        self._wanted = tree
        self._sums: dict[int, str] = {}
        self._all = sum(tensor.size for tensor in distinct(tree))
        self._done = 0
        made: dict[int, LazyTensor] = {}

        def change(_path: str, value: Any) -> Any:
            return made.setdefault(id(value), _Summed(value, self._add)) if isinstance(value, LazyTensor) else value

        self.tree = changed(tree, change)

    def _add(self, tensor: LazyTensor, found: torch.Tensor) -> None:
        if id(tensor) not in self._sums:
            self._sums[id(tensor)] = digest(elements_of(found))
            self._done += tensor.size
            self._tell("writing", self._done, self._all)

    def compare(self, written: Tree, path: Path) -> None:
        """Read everything that was written.

        :raises TargetNotWritable: something differs.
        """
        wanted, there = tensors_of(self._wanted), tensors_of(written)
        problem = _difference(self._wanted, written)
        if problem is not None:
            raise _differs(path, problem)
        sums: dict[int, str] = {}
        done = 0
        for name, tensor in wanted.items():
            other = there[name]
            if id(other) not in sums:
                sums[id(other)] = digest(elements_of(other.read()))
                done += other.size
                self._tell("verifying", min(done, self._all), self._all)
            if sums[id(other)] != self._sums.get(id(tensor)):
                raise _differs(path, f"the elements of {name} are others")


class _Summed(LazyTensor):
    def __init__(self, tensor: LazyTensor, add: Callable[[LazyTensor, torch.Tensor], None]) -> None:
        super().__init__(tensor.dtype, tensor.shape, tensor.stride, is_array=tensor.is_array)
        self._tensor = tensor
        self._add = add

    def read(self) -> torch.Tensor:
        found = self._tensor.read()
        if found.dtype != self.dtype or tuple(found.shape) != self.shape:
            raise CheckpointUnreadable(f"{self._tensor!r} was read as {found.dtype} of {list(found.shape)}")
        self._add(self._tensor, found)
        return found


def _difference(wanted: Any, found: Any, path: str = "") -> str | None:
    """Where two trees differ, but for the elements of their tensors."""
    at = path or "the root"
    if isinstance(wanted, LazyTensor):
        same = isinstance(found, LazyTensor) and (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        return None if same else f"at {at} there is {found!r:.80} for {wanted!r}"
    if isinstance(wanted, dict) and isinstance(found, dict):
        if [(type(key), key) for key in wanted] != [
            (type(key), key) for key in found
        ] and wanted.keys() != found.keys():
            return f"at {at} there are other keys"
        pairs = [(key, item, found[key]) for key, item in wanted.items()]
    elif isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(wanted) != len(found) or isinstance(wanted, list) != isinstance(found, list):
            return f"at {at} there is {found!r:.80}"
        pairs = [(index, *both) for index, both in enumerate(zip(wanted, found, strict=True))]
    else:
        return None if _same(wanted, found) else f"at {at} there is {found!r:.80} for {wanted!r:.80}"
    differences = (_difference(one, other, f"{path}.{key}" if path else str(key)) for key, one, other in pairs)
    return next((text for text in differences if text is not None), None)


def _same(wanted: Any, found: Any) -> bool:
    if type(wanted) is not type(found):
        return False
    if isinstance(wanted, float) and isnan(wanted):
        return isnan(found)
    if isinstance(wanted, complex):
        return repr(wanted) == repr(found)
    if type(wanted).__eq__ is object.__eq__:  # type: ignore[comparison-overlap]  # of a class and of its instances
        return True  # an object that was pickled, and does not say what equals it
    return bool(wanted == found)


def _differs(path: Path, problem: str) -> TargetNotWritable:
    return TargetNotWritable(
        f"what was written for {path} reads back as something else, and was removed: {problem}",
        "try again, and to another disk: it may lose what it is given",
    )


def _forget_cached(fresh: Path) -> None:
    """Let what follows read from the disk, and not what the kernel still has of the writing; as far as it listens."""
    for file in fresh.rglob("*") if fresh.is_dir() else [fresh]:
        if file.is_file():
            with suppress(OSError), file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _made_beside(path: Path, size: int, storage: Storage) -> Iterator[Path]:
    """A path for what becomes ``path``, in a directory that goes in any case."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path, storage)
        if storage.free_bytes(path.parent) < size + _SPARE_BYTES:
            raise StorageFull(f"{size} bytes are needed in {path.parent}, which has less", "free space there")
        hidden = path.with_name(f"{_beginning(path)}{uuid.uuid4().hex[:8]}")
        storage.make_directory(hidden)
    except OSError as error:
        raise _unwritable(path, error) from error
    with _locked(hidden):
        try:
            yield hidden / path.name
            storage.sync_directory(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            with suppress(OSError):
                storage.remove_tree(hidden)


def _unwritable(path: Path, error: OSError) -> ResilientError:
    if error.errno in NO_ROOM:
        return StorageFull(f"the disk of {path} is full; nothing is left there", "free space, or choose another target")
    problem = f"{path} cannot be written: {error.strerror or error}"
    return TargetNotWritable(problem, "check the path and its permissions")


def _beginning(path: Path) -> str:
    return f".{path.name}.convert-"


def _remove_abandoned(path: Path, storage: Storage) -> None:
    """What conversions to this place have left that were killed."""
    for hidden in path.parent.glob(f"{_beginning(path)}????????"):
        with suppress(OSError), _locked(hidden):
            storage.remove_tree(hidden)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock on a directory. The kernel lets go of it when the process ends.

    :raises BlockingIOError: somebody else has it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
        yield
    finally:
        os.close(descriptor)
