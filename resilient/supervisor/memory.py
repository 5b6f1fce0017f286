"""The shared memory of a run on this node: boards and arenas of all ranks, owned by the supervisor.

It is found by name, so what a killed supervisor leaves is its successor's.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from resilient.errors import ConfigurationError, StorageFull
from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Board
from resilient.protocol.paths import RunPaths

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  a private directory is made in it, with mode 0700


class RunMemory:
    """Boards and arenas of ``ranks`` workers."""

    def __init__(self, directory: Path, ranks: int, slots: int, identity: str) -> None:
        """Open what is there, make what is not.

        :param identity: of the run. What is there of another run, whose directory was deleted and made anew, is
            thrown away: it would bring back a state that somebody wanted to be rid of.
        :raises StorageFull: shared memory has not even room for the boards.
        """
        self.directory = directory
        self._identity = identity
        self._ranks = range(ranks)
        try:
            self._claim()
            self.boards = {rank: self._board(rank) for rank in self._ranks}
        except OSError as error:
            raise StorageFull(
                f"no shared memory in {directory}: {error.strerror}", "make it larger, or set snapshot.memory_dir"
            ) from error
        self.arenas = {rank: Arena.shared(directory, rank, slots) for rank in self._ranks}

    @classmethod
    def place(cls, paths: RunPaths, memory_dir: str) -> Path:
        """The directory for this run's memory."""
        parent = Path(memory_dir) if memory_dir else _SHARED_MEMORY
        return (parent if parent.is_dir() else paths.root) / paths.memory_name

    def _claim(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self.directory.stat().st_uid != os.getuid():
            raise ConfigurationError(
                f"{self.directory} belongs to another user", "set snapshot.memory_dir to a directory of your own"
            )
        mark = self.directory / "identity"
        if mark.exists() and mark.read_text() == self._identity:
            return
        for path in self.directory.iterdir():
            path.unlink()
        mark.write_text(self._identity)

    def keep_linked(self) -> None:
        """Bring back what somebody has removed from the directory while we had it open. Only while no worker is up."""
        self._claim()
        for arena in self.arenas.values():
            for slot in arena.slots:
                slot.keep_linked()

    def _board(self, rank: int) -> Board:
        path = self._board_path(rank)
        try:
            return Board.open(path)
        except (OSError, ValueError):
            return Board.create(path)

    def _board_path(self, rank: int) -> Path:
        return self.directory / f"rank-{rank:05d}.board"

    def renew_boards(self) -> None:
        """Fresh boards for a new round; what was unread on the old ones must have been collected."""
        for rank, board in self.boards.items():
            board.close()
            self._board_path(rank).unlink(missing_ok=True)
            self.boards[rank] = Board.create(self._board_path(rank))

    def newest_step(self) -> int | None:
        """The newest step of which every rank holds a complete image."""
        steps = [
            {info.step for info in (slot.info() for slot in arena.slots) if info.complete}
            for arena in self.arenas.values()
        ]
        common = set.intersection(*steps)
        return max(common, default=None)

    def slots_of(self, step: int) -> dict[int, Slot] | None:
        """Each rank's slot with the image of ``step``, or None if one has none."""
        found = {rank: arena.find(step) for rank, arena in self.arenas.items()}
        whole = {rank: slot for rank, slot in found.items() if slot is not None}
        return whole if len(whole) == len(found) else None

    def held_steps(self) -> list[int]:
        """Steps that all ranks want made durable, oldest first."""
        steps = [{slot.info().step for slot in arena.held()} for arena in self.arenas.values()]
        return sorted(set.intersection(*steps))

    def hold(self, step: int) -> None:
        for slot in (self.slots_of(step) or {}).values():
            slot.hold()

    def release(self, step: int) -> None:
        """The image of ``step`` is durable, or never will be: its slots may be written again."""
        for arena in self.arenas.values():
            for slot in arena.held():
                if slot.info().step == step:
                    slot.release()

    def release_all(self) -> None:
        for arena in self.arenas.values():
            for slot in arena.slots:
                slot.release()

    def void(self) -> None:
        """Nothing in memory is a snapshot any more."""
        for arena in self.arenas.values():
            arena.void()

    def close(self) -> None:
        for board in self.boards.values():
            board.close()
        for arena in self.arenas.values():
            arena.close()

    def remove(self) -> None:
        """Give the memory back; nothing is left of it."""
        self.close()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
