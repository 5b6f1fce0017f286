"""The divergence benchmark's own arithmetic: intervals, occasions, harm, and what the peers say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from benchmarks.divergence_curves import CLEAN, Curve
from benchmarks.divergence_peers import (
    Said,
    intern_evo,
    kill_loss_spike,
    mad_two_of_two,
    megatron,
    olmo_core,
)
from benchmarks.divergence_score import Harm, events, harm, outcome, percentile, poisson_interval

Judge = Callable[[Sequence[float], Sequence[float] | None], list[Said]]
FLAT = [3.0 + 0.01 * (step % 5) for step in range(200)]


@pytest.mark.parametrize(
    ("count", "least", "most"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (100, 81.36, 121.63)]
)
def test_the_interval_is_garwoods(count: int, least: float, most: float) -> None:
    assert poisson_interval(count) == pytest.approx((least, most), rel=1e-3)


def test_alarms_close_together_are_one_occasion() -> None:
    assert events([]) == 0
    assert events([Said(step, acts=False) for step in (5, 6, 26, 47)]) == 2


def test_a_percentile_is_interpolated() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2.5
    assert math.isnan(percentile([], 0.5))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([0.0] * 100, Harm(hurt=False, lasts=False)),
        ([1.0] * 10 + [0.0] * 90, Harm(hurt=True, lasts=False)),
        ([1.0] * 100, Harm(hurt=True, lasts=True)),
        ([0.02] * 100, Harm(hurt=False, lasts=False)),
        ([math.nan] * 20, Harm(hurt=True, lasts=True)),
    ],
)
def test_harm_is_the_difference_to_the_twin(after: list[float], expected: Harm) -> None:
    twin = Curve(CLEAN, 0, 0, FLAT + FLAT[:100], [])
    hurt = Curve("fault", 0, 201, FLAT + [own + more for own, more in zip(FLAT, after, strict=False)], [])
    assert harm(hurt, twin) == expected


def test_delays_count_from_the_fault_and_what_was_said_before_it_does_not() -> None:
    twin = Curve(CLEAN, 0, 0, FLAT, [])
    said = [Said(40, acts=True), Said(103, acts=False), Said(130, acts=True)]
    found = outcome(Curve("fault", 0, 101, FLAT, []), twin, said)
    assert (found.alarm, found.action) == (2, 29)


@pytest.mark.parametrize(
    ("judge", "after", "steps", "acting"),
    [
        (olmo_core, [9.0, 3.0], [201], [201]),
        (olmo_core, [0.0], [201], [201]),
        (kill_loss_spike, [5.9] * 3, [], []),
        (kill_loss_spike, [7.0, 3.0, *[7.0] * 5], [201, 203, 204, 205, 206, 207], [207]),
        (megatron, [29.0], [], []),
        (megatron, [31.0, math.nan], [201, 202], [201, 202]),
        (intern_evo, [4.6, 4.7], [201], [201]),
        (mad_two_of_two, [9.0, 3.0, 9.0, 9.0], [201, 203, 204], [204]),
    ],
)
def test_peers_say_what_their_sources_do(judge: Judge, after: list[float], steps: list[int], acting: list[int]) -> None:
    said = judge([*FLAT, *after], None)
    assert [item.step for item in said] == steps
    assert [item.step for item in said if item.acts] == acting
