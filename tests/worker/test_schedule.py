"""When a snapshot has to become durable."""

from __future__ import annotations

from resilient.protocol.settings import SnapshotSettings
from resilient.worker.schedule import Schedule


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
            schedule.taken()
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
    schedule.taken()
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
