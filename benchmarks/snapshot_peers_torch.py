"""What torch itself has to save with: ``torch.save``, ``dcp.save``, and ``dcp.async_save`` by default and at its best.

At its best it has a stager that is kept, so that its memory is reused, and that stages in the background. Without an
accelerator ``DefaultStager`` refuses pinned memory and non-blocking copies; staging in a thread it has. One seat: the
kept stager's is the only memory that lasts from one save to the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from benchmarks.snapshot_contestant import Complete, Contestant, Pending
from benchmarks.snapshot_state import State

dcp: Any = checkpoint  # its stubs export only a part of what it documents


class TorchSave(Contestant):
    name = "torch.save"
    extension = ".pt"

    def begin(self, path: Path) -> Pending:
        torch.save(self.state.tree(), path)
        return Complete()

    def read(self, path: Path) -> Any:
        return torch.load(path, weights_only=True)


class DcpSave(Contestant):
    """Loads in place: the tensors of the tree are the live ones."""

    name = "dcp.save"
    in_place = True

    def begin(self, path: Path) -> Pending:
        dcp.save(self.state.tree(), checkpoint_id=path)
        return Complete()

    def read(self, path: Path) -> Any:
        dcp.load(self.state.tree(), checkpoint_id=path)


class DcpPending(Pending):
    """What ``async_save`` returns: a future, or, with a stager that stages in the background, two of them."""

    def __init__(self, response: Any) -> None:
        self._staged = getattr(response, "staging_completion", None)
        self._written = getattr(response, "upload_completion", response)

    def wait_copied(self) -> None:
        if self._staged is not None:
            self._staged.result()

    def wait_written(self) -> None:
        self._written.result()

    def persisting(self) -> bool:
        return not self._written.done()


class DcpAsyncSave(DcpSave):
    """A stager and staging memory of its own for each save."""

    name = "dcp.async_save"
    asynchronous = True

    def begin(self, path: Path) -> Pending:
        return DcpPending(dcp.async_save(self.state.tree(), checkpoint_id=path))


class DcpKeptStager(DcpSave):
    name = "dcp.async_save, kept stager"
    asynchronous = True
    where = AsyncCheckpointerType.THREAD
    shared = False

    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False,
                use_shared_memory=self.shared,
                use_async_staging=True,
                use_non_blocking_copy=False,
            )
        )

    def begin(self, path: Path) -> Pending:
        response = dcp.async_save(
            self.state.tree(), checkpoint_id=path, async_stager=self._stager, async_checkpointer_type=self.where
        )
        return DcpPending(response)

    def close(self) -> None:
        self._stager.close()


def contestants(state: State, folder: Path) -> list[Contestant]:
    kept = DcpKeptStager(state, folder)
    return [TorchSave(state, folder), DcpSave(state, folder), DcpAsyncSave(state, folder), kept]
