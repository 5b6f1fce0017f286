"""Which rank of a silent group is named."""

from __future__ import annotations

import pytest

from resilient.policy.culprit import Condition, RankAccount, Silent, find_culprit


def _silent(
    rank: int,
    *,
    step: int = 10,
    since: float = 0.0,
    condition: Condition = Condition.RUNNING,
    waits: bool | None = None,
) -> Silent:
    return Silent(RankAccount(rank, condition, "", waits), step, since)


def _named(*silent: Silent) -> int | None:
    found = find_culprit(silent)
    return None if found is None else found.rank


def test_the_only_one_is_it() -> None:
    assert _named(_silent(0)) == 0


def test_of_nobody_there_is_nobody_to_name() -> None:
    assert _named() is None


@pytest.mark.parametrize("held", [Condition.STOPPED, Condition.TRACED, Condition.UNINTERRUPTIBLE])
def test_one_that_the_kernel_holds_comes_before_one_that_is_behind(held: Condition) -> None:
    assert _named(_silent(0, step=9), _silent(1, step=10, condition=held), _silent(2)) == 1


def test_a_stopped_one_comes_before_one_that_waits_for_a_device() -> None:
    assert _named(_silent(0, condition=Condition.UNINTERRUPTIBLE), _silent(1, condition=Condition.STOPPED)) == 1


def test_the_one_with_the_fewest_steps_is_waited_for() -> None:
    assert _named(_silent(0, waits=True), _silent(1, step=9, waits=True), _silent(2, waits=False)) == 1


def test_among_equals_it_is_the_one_that_waits_for_nobody() -> None:
    assert _named(_silent(0, waits=True), _silent(1, waits=True), _silent(2, waits=False)) == 2


def test_a_rank_without_a_stack_is_not_accused_by_that() -> None:
    assert _named(_silent(0, waits=True), _silent(1, waits=None)) is None


def test_with_nothing_else_to_tell_them_apart_it_is_who_has_clearly_been_silent_for_longest() -> None:
    assert _named(_silent(0, since=7.0), _silent(1, since=4.0), _silent(2, since=7.0)) == 1
    assert _named(_silent(0, since=7.0), _silent(1, since=6.9), _silent(2, since=7.0)) is None


def test_a_group_that_waits_for_itself_has_no_culprit() -> None:
    assert _named(*(_silent(rank, waits=True) for rank in range(256))) is None
    assert _named(*(_silent(rank, waits=False) for rank in range(256))) is None
