"""Asking for a snapshot: what the one who asks sees of rounds, boards and committed snapshots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.errors import NotInTime, RunNotUp
from resilient.protocol.board import Board, Word
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.request import SnapshotRequest, wait_for_snapshot


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths.of(tmp_path, "demo")
    paths.create()
    return paths


@pytest.fixture
def lock(paths: RunPaths) -> Iterator[RunLock]:
    """A live supervisor."""
    lock = RunLock(paths.lock, hostname())
    yield lock
    lock.release()


@pytest.fixture
def memory(paths: RunPaths, lock: RunLock) -> RunMemory:
    return RunMemory(paths.root / paths.memory_name, ranks=2, slots=2, identity="this run")


def request(paths: RunPaths, now: float = 0.0) -> SnapshotRequest:
    return SnapshotRequest(paths, str(paths.root), now)


def take(paths: RunPaths, step: int) -> None:
    commit(Storage(), paths.snapshots, Draft("demo", step, 0, {0: memoryview(b"x" * 8)}))


def test_the_request_is_counted_on_rank_0s_board_and_once_for_each_round(paths: RunPaths, memory: RunMemory) -> None:
    asked = request(paths)
    asked.repeat()
    assert [board[Word.REQUESTS] for board in memory.boards.values()] == [1, 0]
    request(paths)
    assert memory.boards[0][Word.REQUESTS] == 2
    old = Board.open(memory.boards[0].path)
    memory.renew_boards()
    asked.repeat()
    asked.repeat()
    assert memory.boards[0][Word.REQUESTS] == 1
    old.close()


def test_the_answer_is_a_snapshot_of_a_state_no_older_than_the_request(paths: RunPaths, memory: RunMemory) -> None:
    take(paths, 60)  # of a time before
    memory.boards[0][Word.STEP] = 50
    asked = request(paths, now=time.time())
    assert asked.answer() is None
    take(paths, 40)  # was being written when the request came
    assert asked.answer() is None
    take(paths, 50)
    answer = asked.answer()
    assert answer is not None
    assert answer.step == 50


def test_a_board_that_is_not_there_yet_is_asked_when_it_is(paths: RunPaths, lock: RunLock) -> None:
    asked = request(paths)
    memory = RunMemory(paths.root / paths.memory_name, ranks=1, slots=2, identity="this run")
    asked.repeat()
    assert memory.boards[0][Word.REQUESTS] == 1


def test_waiting_ends_with_the_time_with_the_run_or_with_the_answer(
    paths: RunPaths, lock: RunLock, memory: RunMemory
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 100:
            take(paths, 7)

    with pytest.raises(NotInTime, match="within 5 s"):
        wait_for_snapshot(paths, str(paths.root), 5, clock=lambda: now[0], sleep=sleep)
    now[0] = 0.0
    assert wait_for_snapshot(paths, str(paths.root), 500, clock=lambda: now[0], sleep=sleep).step == 7


def test_a_run_that_ends_first_is_an_error(paths: RunPaths) -> None:
    lock = RunLock(paths.lock, hostname())
    with pytest.raises(RunNotUp, match="ended before"):
        wait_for_snapshot(paths, str(paths.root), 500, clock=lambda: 0.0, sleep=lambda _: lock.release())


def test_nobody_there_is_an_error_at_once(paths: RunPaths) -> None:
    with pytest.raises(RunNotUp, match="nobody on this machine"):
        request(paths)
