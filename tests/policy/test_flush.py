"""What is made durable when time is short."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.flush import FlushPlan, Writing, plan_flush

GB = 10**9


def plan(
    newest: tuple[int, int] | None, current: tuple[int, int, int] | None, *, rate: float = GB, remaining: float
) -> FlushPlan:
    return plan_flush(
        Writing(*newest) if newest else None, Writing(*current) if current else None, rate=rate, remaining=remaining
    )


def test_with_nothing_that_is_not_durable_there_is_nothing_to_do() -> None:
    assert plan(None, None, remaining=0.0) == FlushPlan((), abandon=False, reason="everything in memory is durable")


def test_whoever_has_no_deadline_gets_everything() -> None:
    chosen = plan((20, 9 * GB), (10, 9 * GB, 0), rate=1.0, remaining=math.inf)
    assert (chosen.steps, chosen.abandon) == ((10, 20), False)


def test_the_newest_alone_is_written_even_when_it_seems_too_much() -> None:
    assert plan((20, 4 * GB), None, remaining=5.0).fits
    late = plan((20, 4 * GB), None, remaining=3.0)
    assert (late.steps, late.fits) == ((20,), False)
    assert "4.0 s" in late.reason
    assert "3.0 s are left" in late.reason


def test_what_is_being_written_and_is_the_newest_goes_on() -> None:
    chosen = plan((20, 4 * GB), (20, 4 * GB, 3 * GB), remaining=2.0)
    assert (chosen.steps, chosen.abandon, chosen.fits) == ((20,), False, True)


@pytest.mark.parametrize(
    ("remaining", "steps", "abandon", "words"),
    [
        (7.0, (10, 20), False, "time for both"),  # 2 s and 4 s
        (5.0, (20,), True, "fits if it is written at once"),
        (3.0, (10,), False, "only what is being written already fits"),
        (1.0, (10,), False, "neither fits"),
    ],
)
def test_of_two_the_newest_that_can_be_durable_in_time(
    remaining: float, steps: tuple[int, ...], abandon: bool, words: str
) -> None:
    chosen = plan((20, 4 * GB), (10, 4 * GB, 2 * GB), remaining=remaining)
    assert (chosen.steps, chosen.abandon) == (steps, abandon)
    assert words in chosen.reason
    assert chosen.fits == (words != "neither fits")


def test_where_neither_fits_a_smaller_newest_is_the_nearer_one() -> None:
    chosen = plan((20, GB), (10, 4 * GB, GB), remaining=0.5)
    assert (chosen.steps, chosen.abandon, chosen.fits) == ((20,), True, False)


def test_without_a_known_speed_only_the_newest_is_tried() -> None:
    chosen = plan((20, GB), (10, GB, 0), rate=0.0, remaining=5.0)
    assert (chosen.steps, chosen.abandon) == ((20,), True)


sizes = st.integers(1, 100 * GB)


@given(sizes, sizes, st.floats(0, 1), st.floats(0, 1e11), st.floats(0, 1e4))
def test_whatever_is_said_to_fit_does_and_nothing_newer_would_have(
    newest: int, current: int, part: float, rate: float, remaining: float
) -> None:
    writing = Writing(10, current, int(current * part))
    chosen = plan_flush(Writing(20, newest), writing, rate, remaining)
    assert chosen.steps in {(10, 20), (10,), (20,)}
    assert chosen.abandon == (10 not in chosen.steps)
    if rate <= 0:
        return
    needed = {10: writing.left / rate, 20: newest / rate}
    assert chosen.fits == (sum(needed[step] for step in chosen.steps) <= remaining)
    if 20 not in chosen.steps:
        assert needed[20] > remaining
