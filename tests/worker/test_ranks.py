"""Loops over steps that go on together: two ranks as two threads, with real boards and real slots between them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resilient.errors import StorageFull
from resilient.protocol.board import Command, Flag, Word
from resilient.protocol.environment import WorkerEnvironment
from resilient.protocol.metrics_log import BATCH_HASH
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.agreement import release_unfulfilled
from resilient.supervisor.memory import RunMemory
from resilient.worker.host import SupervisedHost
from resilient.worker.rng import GlobalRandomState
from resilient.worker.run import Run
from tests.worker.test_run import Counting

RANKS = 2


class Pair:
    """Two ranks; every step needs them both.

    :ivar before: called by rank 0 in each step, with the step, while rank 1 waits.
    """

    def __init__(
        self, folder: Path, settings: SnapshotSettings, accumulate: int = 1, stop_after: int | None = None
    ) -> None:
        self.memory = RunMemory(folder / "shared", RANKS, settings.slots, "this run", folder)
        plan = RoundPlan("run", str(folder), 0, str(self.memory.directory), snapshot=settings, stop_after=stop_after)
        file = self.memory.write_plan(plan)
        self.before: Callable[[int], None] = lambda _: None
        self.runs = [self._run(file, plan, rank) for rank in range(RANKS)]
        self._accumulate = accumulate
        self._barrier = threading.Barrier(RANKS, timeout=30)
        self._errors: list[BaseException] = []

    def _run(self, file: Path, plan: RoundPlan, rank: int) -> tuple[Run, nn.Module, torch.optim.Optimizer]:
        host = SupervisedHost(WorkerEnvironment(file, rank, rank, RANKS), plan)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        data, random = Counting(), GlobalRandomState()
        objects: dict[str, Any] = {"model": model, "optimizer": optimizer, "position": data, "rng": random}
        run = Run(host, objects, data, random)
        host.attached(0)
        return run, model, optimizer

    def train(self, total: int) -> list[int]:
        """Train to the end, or until they leave; the last step of each rank."""
        threads = [threading.Thread(target=self._guarded, args=(rank, total)) for rank in range(RANKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return [run.step for run, _, _ in self.runs]

    def _guarded(self, rank: int, total: int) -> None:
        try:
            self._train(rank, total)
        except BaseException as error:  # noqa: BLE001  raised again in the test's own thread
            self._errors.append(error)
            self._barrier.abort()

    def _train(self, rank: int, total: int) -> None:
        run, model, optimizer = self.runs[rank]
        for step, _ in run.steps(total):
            self._barrier.wait()
            if rank == 0:
                self.before(step)
            self._barrier.wait()
            model(torch.ones(2, 3)).sum().backward()
            if step % self._accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()

    def steps_of(self, rank: int, *, held: bool = False) -> set[int]:
        infos = [slot.info() for slot in self.memory.arenas[rank].slots]
        return {info.step for info in infos if info.complete and (info.held or not held)}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(accumulate: int = 1, stop_after: int | None = None, **settings: Any) -> Pair:
        # Overlapped copies are ended by any optimizer of the process, and here both ranks have one in the same.
        made.append(Pair(tmp_path, SnapshotSettings(**{"overlap": False, **settings}), accumulate, stop_after))
        return made[0]

    yield make
    made[0].memory.remove()


def test_both_take_and_hold_the_images_of_the_same_steps(pair: Callable[..., Pair]) -> None:
    two = pair(every_steps=4)
    held: dict[int, list[set[int]]] = {}

    def look(step: int) -> None:
        held[step] = [two.steps_of(rank, held=True) for rank in range(RANKS)]
        for each in two.memory.held_steps():
            two.memory.release(each)

    two.before = look
    assert two.train(10) == [10, 10]
    assert held == {step: [{step - 1} if step in (5, 9) else set()] * 2 for step in range(1, 11)}
    assert two.memory.held_steps() == [10], "and the last one"


def test_while_one_waits_for_the_disk_none_is_held(pair: Callable[..., Pair]) -> None:
    two = pair(every_steps=2)
    seen: list[set[int]] = []

    def look(step: int) -> None:
        seen.append(two.steps_of(0, held=True) | two.steps_of(1, held=True))
        if step == 7:
            two.memory.release(2)

    two.before = look
    assert two.train(10) == [10, 10]
    later = "what was due at 4 and 6 is held once 2 is released, in both"
    assert seen == [set(), set(), *[{2}] * 5, set(), {8}, {8}], later
    assert two.memory.held_steps() == [8, 10]


def test_asked_one_after_the_other_both_leave_after_one_step(pair: Callable[..., Pair]) -> None:
    two = pair(every_steps=100)

    def ask(step: int) -> None:
        if step in (4, 6):
            two.memory.boards[1 if step == 4 else 0][Word.COMMAND] = Command.LEAVE

    two.before = ask
    assert two.train(20) == [6, 6]
    assert two.memory.held_steps() == [6]
    assert all(board.has_flag(Flag.LEFT_EARLY) for board in two.memory.boards.values())


def test_both_stop_after_the_step_that_the_plan_names(pair: Callable[..., Pair]) -> None:
    two = pair(every_steps=5, stop_after=5)
    assert two.train(20) == [5, 5]
    assert [two.steps_of(rank) for rank in range(RANKS)] == [{2, 3, 4}] * 2
    for board in two.memory.boards.values():
        assert board.has_flag(Flag.STOPPED_AFTER)
        assert not board.has_flag(Flag.LEFT_EARLY)
        assert not board.has_flag(Flag.FINISHED)
    hashes = [
        [metrics.values[BATCH_HASH] for metrics in board.unread_metrics()] for board in two.memory.boards.values()
    ]
    assert len(set(hashes[0])) == 5
    assert hashes[0] == hashes[1], "each reports its own, and here they have the same data"


def test_two_ranks_that_take_no_snapshots_end_all_the_same(pair: Callable[..., Pair]) -> None:
    two = pair(memory=False)
    assert two.train(6) == [6, 6]
    assert [two.steps_of(rank) for rank in range(RANKS)] == [set(), set()]


def test_nobody_leaves_with_half_a_gradient(pair: Callable[..., Pair]) -> None:
    two = pair(accumulate=3, every_steps=100)

    def ask(step: int) -> None:
        if step == 4:
            for board in two.memory.boards.values():
                board[Word.COMMAND] = Command.LEAVE

    two.before = ask
    assert two.train(20) == [6, 6]
    assert two.memory.held_steps() == [6]


def test_a_snapshot_that_one_rank_has_no_room_for_is_taken_by_both_a_little_later(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pair(every_steps=5)
    run = two.runs[1][0]
    write, released = run._capture.write, []

    def full(slot: Any, step: int, **more: Any) -> None:
        if step == 5:
            for each in run._host.arena.slots:
                each.cramped = True
            raise StorageFull("no room", "make some")
        write(slot, step, **more)

    monkeypatch.setattr(run._capture, "write", full)

    def look(step: int) -> None:
        if step == 7:
            released.extend(release_unfulfilled(two.memory))
        if step == 9:
            assert two.memory.held_steps() == [8]
            two.memory.release(8)

    two.before = look
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert two.train(9) == [9, 9]
    assert released == [5]


def test_how_often_images_are_taken_is_chosen_by_rank_0_for_both(pair: Callable[..., Pair]) -> None:
    two = pair(memory_every_steps=0, every_steps=0, every_seconds=1e6)
    schedule = two.runs[0][0]._schedule
    schedule.memory_due = lambda step: step in (2, 7)  # type: ignore[method-assign]
    two.runs[1][0]._schedule.memory_due = lambda step: True  # type: ignore[method-assign]
    seen: dict[int, list[set[int]]] = {}

    def look(step: int) -> None:
        seen[step] = [two.steps_of(rank) for rank in range(RANKS)]

    two.before = look
    two.train(9)
    assert seen[7] == [{2}, {2}]
    assert seen[9] == [{2, 7}, {2, 7}]
