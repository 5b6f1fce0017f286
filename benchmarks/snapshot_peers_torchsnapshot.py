"""torchsnapshot: ``Snapshot.async_take``. Small tensors are batched, which is its default."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks.snapshot_contestant import Contestant, Pending
from benchmarks.snapshot_state import State


class _Taking(Pending):
    def __init__(self, pending: Any) -> None:
        self._pending = pending

    def wait_copied(self) -> None:
        """Everything was copied before ``async_take`` returned."""

    def wait_written(self) -> None:
        self._pending.wait()

    def persisting(self) -> bool:
        return not self._pending.done()


class TorchSnapshot(Contestant):
    name = "torchsnapshot.async_take"
    in_place = True
    asynchronous = True

    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        self._snapshot: Any = importlib.import_module("torchsnapshot").Snapshot

    def _app_state(self) -> dict[str, Any]:
        return {"model": self.state.model, "optimizer": self.state.optimizer}

    def begin(self, path: Path) -> Pending:
        return _Taking(self._snapshot.async_take(str(path), self._app_state()))

    def read(self, path: Path) -> Any:
        self._snapshot(str(path)).restore(self._app_state())


def contestants(state: State, folder: Path) -> list[Contestant]:
    return [TorchSnapshot(state, folder)]
