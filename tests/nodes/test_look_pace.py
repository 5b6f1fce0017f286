"""How often a node looks at what its workers show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.nodes.look_pace import LookPace
from resilient.protocol.bell import SPACING, Bell
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


def ring(memory: RunMemory, pace: LookPace) -> None:
    """A worker rings, and its supervisor hears it."""
    bell = Bell.open(memory.directory)
    assert bell is not None
    bell.ring()
    bell.close()
    (hear,) = pace.connections().values()
    hear()


def test_of_workers_that_do_not_ring_looks_follow_the_changes(pace: LookPace, clock: Clock) -> None:
    looks = []
    pace.changed()
    for _ in range(4):
        looks.append(pace.seconds)
        clock.now += 0.016
    assert looks == pytest.approx([0.004, 0.008, 0.016, 0.02])


def test_who_has_rung_is_waited_for(pace: LookPace, clock: Clock, memory: RunMemory) -> None:
    ring(memory, pace)
    assert pace.seconds == SPACING, "one more step may have begun, and was not rung for"
    clock.now += SPACING
    pace.changed()
    assert pace.seconds == 0.05
    slot = memory.arenas[1].slots[0]
    slot.begin(7, 64)
    assert pace.seconds == 0.004, "the image will be complete, and nobody rings for that"
    slot.complete(1, {}, hold=False)
    assert pace.seconds == 0.05


def test_whether_they_ring_remains_to_be_seen_in_each_round(pace: LookPace, clock: Clock, memory: RunMemory) -> None:
    ring(memory, pace)
    clock.now += 10.0
    assert pace.seconds == 0.05
    bell = Bell.open(memory.directory)
    assert bell is not None
    bell.ring()  # the last word of a worker that is killed
    pace.begin_round()
    assert pace.seconds == 0.02
    pace.watch(None)
    assert pace.seconds == 0.02
    bell.close()
