"""DLRover Flash Checkpoint: ``DdpCheckpointer`` to memory and to disk.

Without ``dlrover-run`` the checkpointer itself starts the process that writes to disk (``start_saver_process``), which
runs the same ``AsyncCheckpointSaver`` as the agent of ``dlrover-run`` does. Both contestants have one checkpointer: its
shared memory is the one of the process.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.snapshot_contestant import Complete, Contestant, Pending
from benchmarks.snapshot_state import State

_POLL_SECONDS = 0.001  # its own `wait_latest_checkpoint` looks every 3 s
_PATIENCE_SECONDS = 120.0


class Flash:
    """The checkpointer, and the count of steps by which it names what it saves."""

    def __init__(self, folder: Path) -> None:
        # Names the shared memory and the sockets, which would be those of any other job on this machine otherwise.
        self.job = os.environ["TORCHELASTIC_RUN_ID"] = f"benchmark-{os.getpid()}"
        module = importlib.import_module("dlrover.trainer.torch.flash_checkpoint.ddp")
        self.kinds = module.StorageType
        self.folder = folder
        self.checkpointer = module.DdpCheckpointer(str(folder))
        self.step = 0

    def save(self, tree: dict[str, Any], path: Path, kind: Any) -> bool:
        """Whether it has saved: while an earlier one is being written to disk it returns without having done so."""
        self.step += 1
        engine = self.checkpointer._engine  # noqa: SLF001  save_checkpoint does not tell
        self.checkpointer.save_checkpoint(self.step, tree, str(path), storage_type=kind)
        return bool(engine._cached_step == self.step)  # noqa: SLF001

    def written_step(self) -> int:
        try:
            return int((self.folder / "dlrover_latest.txt").read_text() or 0)
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        engine = self.checkpointer._engine  # noqa: SLF001
        engine.saver_proc.kill()
        engine.saver_proc.join()
        engine._shm_handler.shared_memory.unlink()  # noqa: SLF001  which is the agent's to do
        engine.close()
        shutil.rmtree(Path("/tmp/ckpt_sock") / self.job, ignore_errors=True)  # noqa: S108  where DLRover has its sockets


class _Saving(Pending):
    def __init__(self, flash: Flash, *, saved: bool) -> None:
        self._flash = flash
        self._step = flash.step
        self._saved = saved

    def wait_copied(self) -> None:
        """Everything was copied before ``save_checkpoint`` returned."""

    def wait_written(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.persisting():
            if time.monotonic() > deadline:
                raise RuntimeError(f"step {self._step} is not on disk after {_PATIENCE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def persisting(self) -> bool:
        return self._flash.written_step() < self._step

    def skipped(self) -> bool:
        return not self._saved


class FlashDisk(Contestant):
    name = "DLRover, disk"
    extension = ".pt"
    asynchronous = True

    def __init__(self, state: State, flash: Flash) -> None:
        super().__init__(state, flash.folder)
        self.flash = flash

    def begin(self, path: Path) -> Pending:
        return _Saving(self.flash, saved=self.flash.save(self.state.tree(), path, self.flash.kinds.DISK))

    def read(self, path: Path) -> Any:
        """``load_checkpoint`` takes what is in memory if there is anything; this is what it does when there is not."""
        return self.flash.checkpointer._engine._load_from_storage(str(path))  # noqa: SLF001


class FlashMemory(FlashDisk):
    name = "DLRover, memory"
    persists = False
    asynchronous = False

    def begin(self, path: Path) -> Pending:
        if not self.flash.save(self.state.tree(), path, self.flash.kinds.MEMORY):
            raise RuntimeError("it has skipped a save to memory, though nothing else was going on")
        return Complete()

    def from_memory(self) -> bool:
        """As documented; the optimizer's state then *is* the shared memory, so it is copied to be like the others'."""
        loaded = self.flash.checkpointer.load_checkpoint()
        self.state.install(loaded)
        return True

    def timed_memory(self, *, check: bool) -> dict[str, float]:
        seconds = super().timed_memory(check=check)
        for values in self.state.optimizer.state.values():
            values.update({key: value.clone() for key, value in values.items()})
        return seconds

    def close(self) -> None:
        self.flash.close()


def contestants(state: State, folder: Path) -> list[Contestant]:
    flash = Flash(folder)
    return [FlashMemory(state, flash), FlashDisk(state, flash)]
