"""Stragglers, as histories of what each rank spends on its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from resilient.errors import ConfigurationError
from resilient.policy.stragglers import OwnTime, OwnWork, Straggler, StragglerSettings, StragglerWatch

SETTINGS = StragglerSettings(factor=1.5, min_seconds=0.01, steps=50)
Cost = Callable[[int, int], tuple[float, float]]
"""What a rank spends at a step on data and on computing."""


class History:
    """Ranks that train; their times smoothed as the workers smooth them, with a tail of slow steps now and then."""

    def __init__(self, ranks: int, cost: Cost, settings: StragglerSettings = SETTINGS, *, noise: float = 0.1) -> None:
        self.watch = StragglerWatch()
        self.said: list[Straggler] = []
        self._ranks, self._cost, self._settings, self._noise = ranks, cost, settings, noise
        self._own = {rank: OwnTime(0, *cost(rank, 0)) for rank in range(ranks)}
        self._random = random.Random(7)

    def train(self, first: int, last: int, *, every: int = 1) -> list[Straggler]:
        """Returns what was said between these steps, looking after every so many."""
        said: list[Straggler] = []
        for step in range(first, last + 1):
            self._own = {rank: self._step(rank, step) for rank in range(self._ranks)}
            if step % every == 0:
                self.watch, found = self.watch.observed(self._own, self._settings)
                said += found
        return said

    def _step(self, rank: int, step: int) -> OwnTime:
        data, compute = (self._noisy(seconds) for seconds in self._cost(rank, step))
        own = self._own[rank]
        return OwnTime(step, own.data + 0.1 * (data - own.data), own.compute + 0.1 * (compute - own.compute))

    def _noisy(self, seconds: float) -> float:
        burst = 4.0 if self._random.random() < 0.02 else 1.0
        return max(0.0, seconds * burst * self._random.gauss(1.0, self._noise))


def test_a_rank_with_slow_data_is_named_once() -> None:
    history = History(8, lambda rank, step: (0.05 if rank == 5 else 0.001, 0.04))
    (found,) = history.train(1, 1000)
    assert (found.rank, found.what, found.over) == (5, OwnWork.DATA, False)
    assert 1.8 < found.factor < 2.8
    assert found.step < 120
    assert "rank 5 is a straggler" in str(found)
    assert "waiting for its data" in str(found)


def test_a_rank_on_a_slow_device_is_named_for_computing() -> None:
    (found,) = History(8, lambda rank, step: (0.001, 0.1 if rank == 2 else 0.04)).train(1, 300)
    assert (found.rank, found.what) == (2, OwnWork.COMPUTE)
    assert "computing the forward pass" in str(found)


def test_of_two_ranks_the_slower_is_named() -> None:
    (found,) = History(2, lambda rank, step: (0.03 * rank, 0.03)).train(1, 300)
    assert found.rank == 1


def test_nobody_is_named_for_noise() -> None:
    assert History(8, lambda rank, step: (0.01, 0.04), noise=0.3).train(1, 3000) == []


def test_a_rank_a_little_slower_than_the_others_is_not_named() -> None:
    assert History(8, lambda rank, step: (0.0, 0.05 if rank == 3 else 0.04)).train(1, 2000) == []


def test_twice_as_slow_is_nothing_where_it_is_a_millisecond() -> None:
    assert History(4, lambda rank, step: (0.0, 0.002 if rank == 3 else 0.001)).train(1, 500) == []


def test_a_passing_slowness_is_not_named() -> None:
    assert History(8, lambda rank, step: (0.2 if rank == 1 and 100 <= step < 110 else 0.0, 0.04)).train(1, 500) == []


def test_a_rank_that_recovers_is_told_of_once_more_and_can_be_named_again() -> None:
    history = History(8, lambda rank, step: (0.1 if rank == 6 and (step < 200 or step > 600) else 0.0, 0.04))
    assert [(one.rank, one.over) for one in history.train(1, 199)] == [(6, False)]
    (back,) = history.train(200, 600)
    assert (back.rank, back.over) == (6, True)
    assert "keeps up with its peers again" in str(back)
    assert [(one.rank, one.over) for one in history.train(601, 1000)] == [(6, False)]


def test_a_rank_near_the_limit_is_not_named_again_and_again() -> None:
    history = History(8, lambda rank, step: (0.0, 0.062 if rank == 4 else 0.04), noise=0.2)
    assert len(history.train(1, 5000)) <= 1


def test_a_rank_between_the_limits_stays_as_it_was() -> None:
    history = History(8, lambda rank, step: (0.0, 0.04 if rank != 4 else 0.08 if step < 200 else 0.054), noise=0.01)
    assert len(history.train(1, 199)) == 1
    assert history.train(200, 1000) == [], "named before, and not back among the others"
    assert History(8, lambda rank, step: (0.0, 0.04 if rank != 4 else 0.054), noise=0.01).train(1, 1000) == []


def test_a_rank_that_was_just_named_is_not_back_at_once() -> None:
    watch, said = StragglerWatch(), []
    for step, seconds in [(0, 1.0), (60, 1.0), (61, 0.1), (100, 0.1), (111, 0.1)]:
        watch, found = watch.observed({0: OwnTime(step, 0.0, 0.1), 1: OwnTime(step, 0.0, seconds)}, SETTINGS)
        said += [(one.step, one.over) for one in found]
    assert said == [(60, False), (111, True)]


def test_several_are_named_as_long_as_most_are_not() -> None:
    history = History(8, lambda rank, step: (0.1 if rank in (1, 7) else 0.0, 0.04))
    assert {one.rank for one in history.train(1, 300)} == {1, 7}


def test_that_not_every_step_is_seen_makes_no_difference() -> None:
    (found,) = History(4, lambda rank, step: (0.1 if rank == 0 else 0.0, 0.04)).train(1, 400, every=37)
    assert found.rank == 0


def test_alone_nobody_is_slow_and_nothing_is_said_when_it_is_off() -> None:
    assert History(1, lambda rank, step: (9.0, 9.0)).train(1, 200) == []
    off = replace(SETTINGS, enabled=False)
    assert History(4, lambda rank, step: (9.0 * rank, 0.1), off).train(1, 200) == []


def test_256_ranks_are_cheap() -> None:
    times = {rank: OwnTime(100, 0.001 * rank, 0.04) for rank in range(256)}
    watch, began = StragglerWatch(), time.perf_counter()
    for _ in range(20):
        watch, _ = watch.observed(times, SETTINGS)
    assert (time.perf_counter() - began) / 20 < 0.05, "it is asked twice a second"


@pytest.mark.parametrize(("field", "value"), [("factor", 1.0), ("min_seconds", -0.1), ("steps", 0)])
def test_a_bad_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"stragglers\.{field}"):
        StragglerSettings(**{field: value})  # type: ignore[arg-type]  # one of the numbers, by name
