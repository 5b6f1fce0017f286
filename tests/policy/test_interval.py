"""Intervals: the formula against simulation, and what the pace of a run makes of it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.interval import DurableCost, Pace, best_interval, expected_failure_seconds


def test_the_formula_by_hand() -> None:
    assert best_interval(1, 100, 0) == pytest.approx(1 + math.sqrt(201))
    assert best_interval(0, 100, 5) == 0
    with pytest.raises(ValueError, match="negative"):
        best_interval(-1, 1, 1)


def test_no_other_interval_does_better_in_a_simulation() -> None:
    """Wall time for a fixed amount of work, with failures at random: the formula's interval against others."""

    def wall_time(interval: float, dice: random.Random) -> float:
        save, mean, restart, work = 5.0, 600.0, 20.0, 40_000.0
        done, wall, failure = 0.0, 0.0, dice.expovariate(1 / mean)
        while done < work:
            if wall + interval + save <= failure:
                wall, done = wall + interval + save, done + interval
            else:
                wall = failure + restart
                failure = wall + dice.expovariate(1 / mean)
        return wall

    def mean_time(interval: float) -> float:
        return sum(wall_time(interval, random.Random(seed)) for seed in range(60)) / 60

    best = best_interval(5.0, 600.0, 20.0)
    at_best = mean_time(best)
    assert at_best < mean_time(best / 3)
    assert at_best < mean_time(best * 3)


def pace(step: float, stall: float) -> Pace:
    known = Pace()
    for _ in range(200):
        known = known.stepped(step).stalled(stall)
    return known


def test_every_step_where_it_costs_less_than_allowed() -> None:
    assert pace(step=0.1, stall=0.0007).memory_interval(0.01, 100) == 1


def test_less_often_where_steps_are_short() -> None:
    assert pace(step=0.018, stall=0.0018).memory_interval(0.01, 100) == 10


def test_never_less_often_than_the_limit() -> None:
    assert pace(step=0.001, stall=1.0).memory_interval(0.01, 50) == 50


def test_every_step_while_nothing_is_known() -> None:
    assert Pace().memory_interval(0.01, 50) == 1
    assert Pace().stepped(1.0).memory_interval(0.01, 50) == 1


def test_one_slow_step_changes_little_and_a_lasting_change_everything() -> None:
    steady = pace(step=0.1, stall=0.01)
    assert steady.memory_interval(0.01, 100) == 10
    assert steady.stalled(0.02).memory_interval(0.01, 100) == 11
    slower = steady
    for _ in range(200):
        slower = slower.stepped(2.0)
    assert slower.memory_interval(0.01, 100) == 1


@given(
    st.lists(st.floats(1e-4, 10), min_size=1, max_size=50),
    st.lists(st.floats(0, 10), min_size=1, max_size=50),
    st.floats(1e-3, 1),
)
def test_the_mean_overhead_stays_below_what_is_allowed(steps: list[float], stalls: list[float], allowed: float) -> None:
    known = Pace()
    for seconds in steps:
        known = known.stepped(seconds)
    for seconds in stalls:
        known = known.stalled(seconds)
    interval = known.memory_interval(allowed, 10**9)
    assert known.stall / (interval * known.step) <= allowed * (1 + 1e-9)
    if interval > 1:
        assert known.stall / ((interval - 1) * known.step) > allowed * (1 - 1e-9)


def test_what_was_assumed_counts_as_one_failure() -> None:
    assert expected_failure_seconds(100.0, 0.0, 0) == 100.0
    assert expected_failure_seconds(100.0, 900.0, 0) == 1000.0
    assert expected_failure_seconds(100.0, 900.0, 9) == 100.0


def test_the_cost_of_a_durable_snapshot_is_a_mean_and_its_interval_is_bounded() -> None:
    cost = DurableCost()
    assert cost.interval(1e5, 10.0, least=30.0, most=3600.0) == 30.0
    cost = cost.add(1.0, 20.0).add(3.0, 40.0)
    assert (cost.training, cost.writing) == (2.0, 30.0)
    assert cost.interval(1e5, 10.0, least=0.0, most=3600.0) == best_interval(2.0, 1e5, 10.0)
    assert cost.interval(1e5, 10.0, least=0.0, most=60.0) == 60.0
    assert cost.interval(1e5, 10.0, least=3000.0, most=3600.0) == 3000.0
    assert cost.interval(1e5, 10.0, least=0.0, most=7.0) == 30.0  # it takes as long to be written


def test_what_a_memory_snapshot_costs_may_be_learned_in_two_parts() -> None:
    whole, parts = Pace(), Pace()
    for seconds in (3.0, 5.0, 1.0):
        whole = whole.stalled(seconds + 0.5)
        parts = parts.stalled(seconds).stalled_longer(0.5)
    assert parts.stall == pytest.approx(whole.stall)
    assert Pace().stalled_longer(1.0) == Pace()
