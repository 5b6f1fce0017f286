"""Where a worker's time goes, added up by a clock that is wound by hand."""

from __future__ import annotations

import pytest

from resilient.worker.spent import Spent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> str:
        self.now += seconds
        return "batch"


def test_each_kind_is_added_up() -> None:
    clock = Clock()
    spent = Spent(clock)
    assert spent.fetch(lambda: clock.passes(2)) == "batch"
    assert spent.stall(0.5) == 0.5
    spent.fetch(lambda: clock.passes(1))
    spent.stall(0.25)
    assert (spent.data, spent.stalled, spent.aside) == (3.0, 0.75, 0.0)


def test_of_phases_inside_one_another_the_outermost_counts() -> None:
    clock = Clock()
    spent = Spent(clock)
    with spent.phase():
        clock.passes(1)
        with spent.phase():
            clock.passes(2)
    assert spent.aside == 3.0


def test_what_ends_with_an_error_counts_too() -> None:
    clock = Clock()
    spent = Spent(clock)

    def fails() -> None:
        clock.passes(1)
        raise OSError

    with pytest.raises(OSError), spent.phase():
        spent.fetch(fails)
    assert (spent.data, spent.aside) == (1.0, 1.0)
