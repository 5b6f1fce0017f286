"""Which committed snapshots may go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.snapshot.retention import removable

STEPS = st.lists(st.integers(0, 100), max_size=12)


def test_the_last_ones_stay() -> None:
    assert removable([10, 20, 30, 40, 50], keep_last=3) == (10, 20)
    assert removable([10, 20], keep_last=3) == ()
    assert removable([], keep_last=3) == ()


def test_the_order_of_the_catalog_does_not_matter() -> None:
    assert removable([50, 10, 40, 20, 30], keep_last=2) == (10, 20, 30)


def test_the_protected_stay_and_do_not_count_among_the_last() -> None:
    assert removable([10, 20, 30, 40], keep_last=2, protected=[10]) == (20,)


@given(STEPS, st.integers(-2, 15), STEPS)
def test_the_newest_is_never_removed_nor_is_what_is_protected(
    steps: list[int], keep: int, protected: list[int]
) -> None:
    gone = removable(steps, keep_last=keep, protected=protected)
    left = set(steps) - set(gone)
    assert set(gone) <= set(steps) - set(protected)
    assert list(gone) == sorted(set(gone))
    if steps:
        assert max(steps) in left
        assert len(left) >= min(max(keep, 1), len(set(steps)))


@given(STEPS, st.integers(1, 15))
def test_without_protection_exactly_the_last_ones_are_left(steps: list[int], keep: int) -> None:
    left = set(steps) - set(removable(steps, keep_last=keep))
    assert sorted(left) == sorted(set(steps))[-keep:]


@given(STEPS, st.integers(1, 15), STEPS)
def test_applying_it_twice_removes_no_more(steps: list[int], keep: int, protected: list[int]) -> None:
    left = set(steps) - set(removable(steps, keep_last=keep, protected=protected))
    assert removable(left, keep_last=keep, protected=protected) == ()
