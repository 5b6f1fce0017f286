"""The faults, and the run they are done to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from resilient.errors import ResilientError
from resilient.protocol.board import Board, Word
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.supervisor.memory import RunMemory


@dataclass(frozen=True)
class Target:
    """A supervised run on this machine.

    :param supervisor: its process.
    :param memory_dir: the run's ``snapshot.memory_dir``.
    """

    paths: RunPaths
    supervisor: int
    memory_dir: str = ""

    def board(self, rank: int = 0) -> Board | None:
        """The rank's board, or None while there is none."""
        try:
            return Board.open(RunMemory.place(self.paths, self.memory_dir) / f"rank-{rank:05d}.board")
        except (OSError, ValueError):
            return None

    def read(self, word: Word, rank: int = 0) -> int:
        """A word of the rank's board; 0 while there is none."""
        board = self.board(rank)
        if board is None:
            return 0
        value = board[word]
        board.close()
        return value

    def wait_for_step(self, step: int, *, alive: Callable[[], bool], poll: float = 0.005) -> None:
        """Return once ``step`` is completed.

        :raises ResilientError: the run ended before.
        """
        while self.read(Word.STEP) < step or not self.read(Word.PID):
            if not alive():
                raise ResilientError(f"the run {self.paths.run_id} ended before step {step}", "look at its output")
            time.sleep(poll)


class Fault:
    """Something that goes wrong. ``inject`` makes it happen now and says what it did."""

    name = "fault"

    def inject(self, target: Target) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class KillWorker(Fault):
    """SIGKILL to one worker, as the out-of-memory killer sends it."""

    rank: int = 0
    number: signal.Signals = signal.SIGKILL
    name = "kill"

    def inject(self, target: Target) -> str:
        pid = target.read(Word.PID, self.rank)
        step = target.read(Word.STEP, self.rank)
        if not pid:
            raise ResilientError(f"rank {self.rank} of {target.paths.run_id} is not running")
        os.kill(pid, self.number)
        return f"{self.number.name} to rank {self.rank} (process {pid}) after step {step}"


@dataclass(frozen=True)
class Preempt(Fault):
    """SIGTERM to the supervisor, as a scheduler sends it."""

    name = "preempt"

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        os.kill(target.supervisor, signal.SIGTERM)
        return f"SIGTERM to the supervisor after step {step}"


@dataclass(frozen=True)
class KillSupervisor(Fault):
    """SIGKILL to the supervisor."""

    name = "kill_supervisor"

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        os.kill(target.supervisor, signal.SIGKILL)
        return f"SIGKILL to the supervisor after step {step}"


@dataclass(frozen=True)
class StallDisk(Fault):
    """A disk that stops answering, as seen from here: the drain, which alone writes to it, stands still."""

    name = "stall_disk"

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        for process in psutil.Process(target.supervisor).children():
            if "resilient.supervisor.drain_process" in process.cmdline():
                process.suspend()
                return f"the drain (process {process.pid}) stands still after step {step}"
        raise ResilientError(f"{target.paths.run_id} has no drain", "its supervisor starts one when it needs it")


@dataclass(frozen=True)
class CorruptSnapshot(Fault):
    """Flip one bit of the newest snapshot on disk.

    :param at: where, as a fraction of the image.
    """

    at: float = 0.5
    name = "corrupt_snapshot"

    def inject(self, target: Target) -> str:
        steps = catalog.committed_steps(target.paths.snapshots)
        if not steps:
            raise ResilientError(f"{target.paths.run_id} has no snapshot to corrupt")
        image = next(iter(sorted(target.paths.snapshot(steps[-1]).glob("*.safetensors"))))
        offset = int(self.at * (image.stat().st_size - 1))
        flip_bit(image, offset)
        return f"one bit flipped in {image.parent.name}/{image.name}, byte {offset}"


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file in place."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ (1 << bit)]))
