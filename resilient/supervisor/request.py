"""Asking a run that is up for a durable snapshot, from another process: no signal, a word on the board."""

from __future__ import annotations

import time
from collections.abc import Callable

from resilient.errors import NotInTime, RunNotUp, SnapshotCorrupt
from resilient.protocol.board import Board, Word
from resilient.protocol.lock import Owner
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot import catalog
from resilient.snapshot.manifest import Manifest
from resilient.supervisor.memory import RunMemory

_POLL_SECONDS = 0.05


class SnapshotRequest:
    """One request. Each round has a board of its own, so it is repeated when the workers are launched again."""

    def __init__(self, paths: RunPaths, memory_dir: str, now: float) -> None:
        """Leave the request on the board, if there is one yet.

        :param now: seconds since the epoch.
        :raises RunNotUp: nobody supervises the run on this machine.
        """
        self._paths = paths
        self._file = RunMemory.place(paths, memory_dir) / "rank-00000.board"
        self._asked_at = now
        self._asked_on: int | None = None  # the file's inode
        self._least: int | None = None
        _require_supervisor(paths)
        self.repeat()

    def repeat(self) -> None:
        """Ask on the board of a new round; nothing happens if this one has the request already."""
        try:
            inode = self._file.stat().st_ino
            if inode == self._asked_on:
                return
            board = Board.open(self._file)
        except (OSError, ValueError):
            return  # between two rounds, or it is being made
        if self._least is None:
            self._least = board[Word.STEP]
        board[Word.REQUESTS] += 1
        self._asked_on = inode
        board.close()

    def answer(self) -> Manifest | None:
        """The durable snapshot of a state that is no older than the request."""
        for step in reversed(catalog.committed_steps(self._paths.snapshots)):
            if step < (self._least or 0):
                break
            try:
                manifest = catalog.read_manifest(self._paths.snapshot(step))
            except SnapshotCorrupt:
                continue
            if manifest.created >= self._asked_at:
                return manifest
        return None


def wait_for_snapshot(
    paths: RunPaths,
    memory_dir: str,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Manifest:
    """Ask for a durable snapshot and wait until it is one.

    :raises RunNotUp: nobody supervises the run on this machine, or the run ended first.
    :raises NotInTime: it took longer than ``timeout`` seconds.
    """
    deadline = clock() + timeout
    request = SnapshotRequest(paths, memory_dir, time.time())
    while True:
        up = supervisor_of(paths) is not None
        if (answer := request.answer()) is not None:
            return answer
        if not up:
            raise RunNotUp(f"the run {paths.run_id} ended before the snapshot was durable", f"see {paths.status}")
        if clock() >= deadline:
            raise NotInTime(
                f"no snapshot of {paths.run_id} became durable within {timeout:g} s",
                f"it may still; see {paths.journal} for what the run is doing, or wait longer with --timeout",
            )
        request.repeat()
        sleep(_POLL_SECONDS)


def supervisor_of(paths: RunPaths) -> Owner | None:
    """Who supervises the run on this machine; None if nobody does."""
    owner = Owner.read(paths.lock)
    return owner if owner is not None and owner.is_alive(hostname()) else None


def _require_supervisor(paths: RunPaths) -> None:
    if supervisor_of(paths) is not None:
        return
    others = {owner.host for owner in map(Owner.read, paths.locks()) if owner is not None} - {hostname()}
    raise RunNotUp(
        f"nobody on this machine is running {paths.run_id}",
        f"ask on {' or '.join(sorted(others))}" if others else "start it with resilient train conf=…",
    )
