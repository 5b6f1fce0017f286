"""The run that faults are done to, as seen from outside its supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from resilient.errors import FaultNotInjected
from resilient.protocol.board import Board, Word
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal
from resilient.supervisor.memory import RunMemory

FORKSERVER = "resilient.worker.forkserver"
DRAIN = "resilient.supervisor.drain_process"


@dataclass(frozen=True)
class Target:
    """A supervised run on this machine.

    :param supervisor: its process.
    :param memory_dir: the run's ``snapshot.memory_dir``.
    :param alive: whether it is worth waiting for something to happen in it; as long as its supervisor is up, by
        default.
    """

    paths: RunPaths
    supervisor: int
    memory_dir: str = ""
    alive: Callable[[], bool] | None = None

    @property
    def memory(self) -> Path:
        """The directory of its boards and slots."""
        return RunMemory.place(self.paths, self.memory_dir)

    def board(self, rank: int = 0) -> Board | None:
        """The rank's board, or None while there is none."""
        try:
            return Board.open(self.memory / f"rank-{rank:05d}.board")
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

    def ranks(self) -> list[int]:
        """All ranks that have a board."""
        return sorted(int(path.stem.removeprefix("rank-")) for path in self.memory.glob("rank-*.board"))

    def worker(self, rank: int = 0) -> int:
        """The rank's process.

        :raises FaultNotInjected: it is not running.
        """
        pid = self.read(Word.PID, rank) or self._launched(rank)
        if not pid:
            raise FaultNotInjected(f"rank {rank} of {self.paths.run_id} is not running")
        return pid

    def _launched(self, rank: int) -> int:
        """Of a script that does not attach, only the journal tells."""
        found = 0
        for entry in read_journal(self.paths.journal):
            if entry["name"] in {"worker launched", "worker exited"} and entry.get("rank") == rank:
                found = int(entry.get("pid", 0))
        return found

    def helper(self, module: str) -> psutil.Process:
        """The supervisor's helper process that runs ``module``.

        :raises FaultNotInjected: there is none.
        """
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.supervisor).children():
                with suppress(psutil.NoSuchProcess):
                    if module in process.cmdline():
                        return process
        raise FaultNotInjected(
            f"{self.paths.run_id} has no process {module}", "its supervisor starts one when it needs it"
        )

    def is_up(self) -> bool:
        """Whether its supervisor is running."""
        try:
            return psutil.Process(self.supervisor).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def wait_for_step(self, step: int, *, alive: Callable[[], bool] | None = None, poll: float = 0.005) -> None:
        """Return once ``step`` is completed.

        :raises FaultNotInjected: the run ended before.
        """
        self.wait_until(
            lambda: self.read(Word.STEP) >= step and self.read(Word.PID) > 0, f"step {step}", alive=alive, poll=poll
        )

    def wait_until(
        self, reached: Callable[[], bool], what: str, *, alive: Callable[[], bool] | None = None, poll: float = 0.005
    ) -> None:
        """Return once ``reached``.

        :raises FaultNotInjected: the run ended before.
        """
        while not reached():
            if not (alive or self.alive or self.is_up)():
                if reached():
                    return
                raise FaultNotInjected(f"the run {self.paths.run_id} ended before {what}", "look at its output")
            time.sleep(poll)
