"""When a snapshot has to become durable."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.policy.interval import best_interval
from resilient.protocol.settings import SnapshotSettings
from resilient.worker.schedule import Chosen, Schedule


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def due_steps(settings: SnapshotSettings, seconds_per_step: float, asked: dict[int, int] | None = None) -> list[int]:
    """Steps 1 to 20, each of them taken when it is due.

    :param asked: from which step on how many have been asked for.
    """
    clock, found, count = Clock(), [], 0
    schedule = Schedule(settings, clock)
    for step in range(1, 21):
        clock.now += seconds_per_step
        count = (asked or {}).get(step, count)
        if schedule.due(step, count):
            found.append(step)
            schedule.taken(lambda: False)
    return found


def test_by_steps() -> None:
    assert due_steps(SnapshotSettings(every_steps=7), 100.0) == [7, 14]


def test_by_time_at_the_first_boundary_after_it() -> None:
    assert due_steps(SnapshotSettings(every_steps=0, every_seconds=10), 3.0) == [4, 8, 12, 16, 20]
    assert due_steps(SnapshotSettings(every_steps=0, every_seconds=10), 5.0) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert due_steps(SnapshotSettings(every_steps=0, every_seconds=10), 60.0) == list(range(1, 21))


def test_both_together_and_the_seconds_count_from_the_last_one_whatever_its_cause() -> None:
    assert due_steps(SnapshotSettings(every_steps=5, every_seconds=4), 1.0) == [4, 5, 9, 10, 14, 15, 19, 20]
    assert due_steps(SnapshotSettings(every_steps=3, every_seconds=4), 1.0) == [3, 6, 9, 12, 15, 18]


def test_a_request_counts_once_and_several_between_two_boundaries_are_one() -> None:
    assert due_steps(SnapshotSettings(every_steps=1000), 1.0, {3: 1, 11: 4, 12: 5}) == [3, 11, 12]


def test_a_request_from_the_start_up_is_obeyed_at_the_first_boundary() -> None:
    assert due_steps(SnapshotSettings(every_steps=1000), 1.0, {1: 1}) == [1]


def test_what_is_due_and_cannot_be_taken_stays_due_by_time() -> None:
    clock = Clock()
    schedule = Schedule(SnapshotSettings(every_steps=0, every_seconds=10), clock)
    clock.now += 11
    assert schedule.due(1, 0)
    assert schedule.due(2, 0)
    schedule.taken(lambda: False)
    assert not schedule.due(3, 0)


def test_automatic_memory_snapshots_come_as_often_as_their_cost_allows() -> None:
    schedule = Schedule(SnapshotSettings(memory_every_steps=0, overhead=0.01), lambda: 0.0)
    taken = []
    for step in range(1, 201):
        schedule.worked(0.018)
        if schedule.memory_due(step):
            taken.append(step)
            schedule.imaged(step, 0.0009)
    assert taken[0] == 1, "nothing is known yet"
    gaps = [later - earlier for earlier, later in zip(taken, taken[1:], strict=False)]
    assert set(gaps) == {5}
    assert len(taken) * 0.0009 <= 0.01 * 200 * 0.018 * 1.05


def test_fixed_memory_interval_does_not_look_at_the_cost() -> None:
    schedule = Schedule(SnapshotSettings(memory_every_steps=2), lambda: 0.0)
    schedule.worked(0.001)
    schedule.imaged(2, 10.0)
    assert [step for step in range(1, 7) if schedule.memory_due(step)] == [2, 4, 6]


# --- the interval that is chosen from what snapshots cost


class Training:
    """Steps of a second on a clock that only they move; a snapshot takes ``writing`` steps, each ``slower`` longer."""

    def __init__(self, *, writing: int, slower: float, failure_seconds: float | None = None, **settings: Any) -> None:
        self.now, self.step, self.held_until, self.wanted = 0.0, 0, -1.0, False
        self.writing, self.slower = writing, slower
        self.due: list[float] = []
        self.told: list[Chosen] = []
        settings = {"every_steps": 0, "auto": True, **settings}
        self.schedule = Schedule(SnapshotSettings(**settings), lambda: self.now, failure_seconds=failure_seconds)

    def until(self, seconds: float) -> Training:
        while self.now < seconds:
            took = 1.0 + (self.slower if self.held_until > self.now else 0.0)
            self.now += took
            self.step += 1
            self.schedule.worked(took)
            self.wanted |= self.schedule.due(self.step, 0)
            if self.wanted and self.held_until <= self.now:  # one at a time goes to disk
                self.wanted = False
                self.due.append(self.now)
                self.held_until = self.now + self.writing
                self.schedule.taken(lambda: self.held_until > self.now)
            if (chosen := self.schedule.chosen()) is not None:
                self.told.append(chosen)
        return self


def test_the_interval_follows_from_what_a_snapshot_costs_and_is_told() -> None:
    training = Training(writing=10, slower=0.5, failure_seconds=10_000.0).until(20_000)
    best = best_interval(training.told[-1].cost, 10_000.0, 0.0)
    assert training.told[-1].cost == pytest.approx(0.5 * 7, abs=0.6)  # about seven steps of one and a half seconds
    assert training.told[0] == Chosen(30.0, 0.0)
    assert training.told[-1].seconds == pytest.approx(best)
    gaps = [after - before for before, after in zip(training.due[5:], training.due[6:], strict=False)]
    assert all(gap == pytest.approx(best, rel=0.05) for gap in gaps)
    assert len(training.told) == 2


def test_a_snapshot_that_costs_nothing_is_taken_as_often_as_allowed_and_no_more_than_it_can_be_written() -> None:
    assert Training(writing=3, slower=0.0).until(1000).told[-1].seconds == 30.0
    slow = Training(writing=100, slower=0.0).until(3000)
    assert slow.told[-1].seconds == pytest.approx(100.0)


def test_a_machine_that_never_fails_gets_one_within_the_limit_all_the_same() -> None:
    training = Training(writing=10, slower=0.9, failure_seconds=1e12, auto_most_seconds=120.0).until(2000)
    assert training.told[-1].seconds == 120.0


def test_steps_and_seconds_go_on_beside_the_chosen_interval() -> None:
    training = Training(writing=1, slower=0.9, failure_seconds=1e12, every_seconds=15.0).until(1000)
    assert len(training.due) == pytest.approx(1000 / 15, abs=5)
    assert Training(writing=1, slower=0.0, every_steps=7).until(100).due[:2] == [7.0, 14.0]


def test_without_auto_nothing_is_chosen() -> None:
    assert not Training(writing=10, slower=0.5, auto=False, every_steps=10).until(100).told
