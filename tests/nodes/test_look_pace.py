"""How often a node looks at what its workers show."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.nodes.look_pace import LookPace
from resilient.protocol.bell import BellPull
from resilient.protocol.board import Word
from resilient.supervisor.memory import RunMemory


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[RunMemory]:
    found = RunMemory(tmp_path / "memory", ranks=2, slots=2, identity="this run")
    yield found
    found.close()


@pytest.fixture
def pace(clock: Clock, memory: RunMemory) -> Iterator[LookPace]:
    made = LookPace(clock)
    made.watch(memory)
    yield made
    made.close()


def ring(memory: RunMemory, pace: LookPace, *, step: int = 0, waiting: bool = False) -> None:
    """A worker begins a step and rings, and its supervisor hears it."""
    memory.boards[1][Word.ENTERED] = step
    pull = BellPull.find(memory.directory)
    assert pull is not None
    pull.ring(waiting=waiting)
    pull.close()
    for bell, hear in pace.connections().items():
        if select.select([bell], [], [], 0)[0]:
            hear()


def looks(pace: LookPace, clock: Clock) -> float:
    """Seconds until there is a look, which finds nothing."""
    seconds = pace.seconds
    clock.now += seconds
    assert pace.due()
    pace.looked(changed=False)
    return seconds


def test_of_workers_that_do_not_ring_looks_follow_the_changes(pace: LookPace, clock: Clock) -> None:
    assert pace.due()
    pace.looked(changed=True)
    assert [looks(pace, clock) for _ in range(6)] == pytest.approx([0.004, 0.004, 0.004, 0.006, 0.009, 0.0135])


def test_what_is_rung_for_is_looked_at_together_a_part_of_a_step_later(
    pace: LookPace, clock: Clock, memory: RunMemory
) -> None:
    ring(memory, pace, step=1)
    assert looks(pace, clock) == 0, "how long steps are remains to be seen"
    clock.now += 0.08
    ring(memory, pace, step=2)
    assert looks(pace, clock) == 0
    clock.now += 0.08
    ring(memory, pace, step=3)
    assert pace.seconds == pytest.approx(0.01)
    clock.now += 0.002
    ring(memory, pace, step=3)
    assert pace.seconds == pytest.approx(0.008), "nor does the second rank's put it off"
    assert not pace.due()
    looks(pace, clock)
    assert pace.seconds == pytest.approx(0.25)
    clock.now += 0.08
    ring(memory, pace, step=3, waiting=True)
    assert pace.due(), "somebody waits"


def test_what_is_heard_from_other_nodes_is_looked_at_at_once_but_not_all_the_time(
    pace: LookPace, clock: Clock, memory: RunMemory
) -> None:
    ring(memory, pace)
    looks(pace, clock)
    clock.now += 0.001
    pace.heard(waits=False)
    assert looks(pace, clock) == pytest.approx(0.003)
    clock.now += 0.02
    pace.heard(waits=False)
    assert looks(pace, clock) == 0
    pace.heard(waits=True)
    assert looks(pace, clock) == 0


def test_boards_are_glanced_at_more_often_than_images(clock: Clock, memory: RunMemory) -> None:
    pace = LookPace(clock, glance_seconds=0.05)
    pace.watch(memory)
    ring(memory, pace)
    assert not pace.is_glance
    looks(pace, clock)
    glances = []
    for _ in range(6):
        clock.now += pace.seconds
        glances.append(pace.is_glance)
        looks(pace, clock)
    assert glances.count(False) == 1, "a quarter of a second is over"
    ring(memory, pace)
    looks(pace, clock)
    clock.now += 0.026
    assert pace.due(), "who is awake for something else need not be woken for that"
    pace.close()


def test_whether_they_ring_remains_to_be_seen_in_each_round(pace: LookPace, clock: Clock, memory: RunMemory) -> None:
    ring(memory, pace)
    looks(pace, clock)
    assert pace.seconds == pytest.approx(0.25)
    pull = BellPull.find(memory.directory)
    assert pull is not None
    pull.ring()  # the last word of a worker that is killed
    pull.close()
    pace.begin_round()
    assert looks(pace, clock) == 0
    assert pace.seconds == pytest.approx(0.004)
    pace.watch(None)
    looks(pace, clock)
    assert pace.seconds == pytest.approx(0.25), "there is nobody"
