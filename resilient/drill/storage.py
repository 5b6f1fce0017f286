"""A disk that is full, and a snapshot that is corrupt when it is needed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from resilient.drill.faults import CorruptSnapshot, Fault, Lift
from resilient.drill.target import Target
from resilient.errors import ExitCode, FaultNotInjected
from resilient.protocol.board import Word
from resilient.protocol.drill import full_disk
from resilient.protocol.slot import Slot
from resilient.protocol.slot_header import SlotState
from resilient.protocol.spill import Spill
from resilient.snapshot import catalog

_WRITTEN_WITHIN = 30.0  # seconds; a disk that takes longer is not waited for with all workers stopped


@dataclass(frozen=True)
class FillDisk(Fault):
    """No snapshot can be written any more, until the run has ended; then there is room again.

    Only in a run that is drilled. The error is the system's, at the call that would write; journal, metrics and logs
    are not refused.
    """

    name = "disk_full"
    explains = "every snapshot meets ENOSPC until the run has ended; then there is room, and the same command again"
    lifted = Lift.AT_END
    again_after = frozenset({ExitCode.REQUEUE, ExitCode.DISK_FULL})

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        switch = full_disk(target.paths)
        switch.parent.mkdir(exist_ok=True)
        switch.touch()
        return f"no room for snapshots after step {step}"

    def lift(self, target: Target) -> None:
        full_disk(target.paths).unlink(missing_ok=True)


@dataclass(frozen=True)
class CorruptRestore(Fault):
    """A bit of the newest snapshot on disk flips, and memory is lost with the worker, so that the run has to go back to
    disk. With an older snapshot there it can.

    :param place: where in the image, as a fraction.
    """

    rank: int = 0
    place: float = 0.5
    name = "corrupt_snapshot"
    explains = "a bit flips in the newest snapshot on disk, and what is in memory is lost with the worker"

    def prepare(self, target: Target) -> None:
        """Have two snapshots on disk, asking for those that are missing as ``resilient snapshot`` does."""
        while len(there := catalog.committed_steps(target.paths.snapshots)) < 2:
            _ask_for_snapshot(target)
            target.wait_until(
                lambda: len(catalog.committed_steps(target.paths.snapshots)) > len(there),
                f"it had two snapshots on disk, {self.name} needs an older one",
            )

    def inject(self, target: Target) -> str:
        victim, workers = target.worker(self.rank), [target.worker(rank) for rank in target.ranks()]
        with _stopped(workers):
            _wait_for_drain(target)
            what = self.damage(target)
            _void_memory(target)
            os.kill(victim, signal.SIGKILL)
        return f"{what}, memory lost, SIGKILL to rank {self.rank}"

    def damage(self, target: Target) -> str:
        """What is done to the newest snapshot, in words."""
        return CorruptSnapshot(at=self.place).inject(target)


def _ask_for_snapshot(target: Target) -> None:
    board = target.board()
    if board is None:
        raise FaultNotInjected(f"{target.paths.run_id} has no worker to take a snapshot")
    board[Word.REQUESTS] += 1
    board.close()


@contextmanager
def _stopped(workers: list[int]) -> Iterator[None]:
    """Nobody takes a snapshot meanwhile."""
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        yield
    except ProcessLookupError:
        raise FaultNotInjected("a worker was gone before it could be stopped") from None
    finally:
        for pid in workers:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def _wait_for_drain(target: Target) -> None:
    """What is complete and on its way to disk arrives there; what the stopped worker was still writing does not."""
    deadline = time.monotonic() + _WRITTEN_WITHIN
    while any(info.held and info.complete for info in (slot.info() for slot in _slots(target))):
        if time.monotonic() > deadline:
            raise FaultNotInjected(f"a snapshot was still being written after {_WRITTEN_WITHIN:.0f} s")
        time.sleep(0.005)


def _void_memory(target: Target) -> None:
    for slot in _slots(target):
        if slot.info().state is not SlotState.EMPTY:
            slot.void()


def _slots(target: Target) -> list[Slot]:
    spill = Spill(target.paths.memory)
    return [Slot(path, index, spill) for index, path in enumerate(sorted(target.memory.glob("rank-*.slot-*")))]
