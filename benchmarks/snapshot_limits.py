"""What physics allows: a plain copy of the state into warm memory, and a raw write and read of as many bytes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.snapshot_contestant import Complete, Contestant, Pending, Seconds
from benchmarks.snapshot_disk import read_raw, write_raw
from benchmarks.snapshot_state import State
from resilient.snapshot.memory import memory_for_disk

MEMORY, DISK = "limit: memcpy", "limit: raw O_DIRECT"
_PAGE = 4096


class Limits:
    """Memory as large as the state, touched once, that both limits use."""

    def __init__(self, state: State) -> None:
        size = -(-state.size // _PAGE) * _PAGE
        self.memory = memory_for_disk(size)  # what lies in pieces would be the memory's limit, not the disk's
        self.views, at = [], 0
        for tensor in state.tensors():
            flat = torch.frombuffer(self.memory, dtype=tensor.dtype, count=tensor.numel(), offset=at)
            self.views.append(flat.view(tensor.shape))
            at += tensor.nbytes


class CopyLimit(Contestant):
    """``torch._foreach_copy_`` of everything."""

    name = MEMORY
    persists = False

    def __init__(self, state: State, folder: Path, limits: Limits) -> None:
        super().__init__(state, folder)
        self._limits = limits

    def begin(self, path: Path) -> Pending:  # noqa: ARG002  it goes nowhere
        torch._foreach_copy_(self._limits.views, self.state.tensors())
        return Complete()

    def read(self, path: Path) -> Any:
        raise NotImplementedError(path)

    def from_memory(self) -> bool:
        torch._foreach_copy_(self.state.tensors(), self._limits.views)
        return True


class DiskLimit(Contestant):
    """A write with ``O_DIRECT`` and ``fsync``, then a read with ``O_DIRECT``, of the copy in memory."""

    name = DISK

    def __init__(self, state: State, folder: Path, limits: Limits) -> None:
        super().__init__(state, folder)
        self._limits = limits

    def save(self, *, check: bool) -> Seconds:  # noqa: ARG002  there is nothing to check
        path = self.next_path()
        start = time.perf_counter()
        write_raw(path, self._limits.memory)
        written = time.perf_counter()
        read_raw(path, self._limits.memory)
        seconds = {"durable": written - start, "load": time.perf_counter() - written}
        self.remove(path)
        return seconds

    def begin(self, path: Path) -> Pending:
        raise NotImplementedError(path)

    def read(self, path: Path) -> Any:
        raise NotImplementedError(path)
