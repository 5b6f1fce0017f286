"""The lineage: which snapshots are on it, and that it is the same after JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.divergence.ladder import LadderState
from resilient.policy.lineage import Fork, Lineage, Rollback, RollbackCause, Skip

KNOWN = KnownGood().taken(50, 5).taken(80, 5).taken(100, 5).advanced(500, 20)
BACK = Lineage(known=KNOWN, ladder=LadderState((100,), 170, 130, 1, 1.0)).rolled_back(
    Rollback(100, 130, 4, (101, 130), reason="spike")
)


@pytest.mark.parametrize(
    ("step", "round_number", "is_held"), [(100, 4, True), (101, 4, False), (101, 0, False), (101, 5, True)]
)
def test_what_comes_after_the_target_is_discarded_unless_a_later_round_made_it(
    step: int, round_number: int, *, is_held: bool
) -> None:
    assert BACK.holds(step, round_number) is is_held
    assert BACK.launched().holds(step, round_number) is is_held


def test_a_rollback_is_pending_until_a_round_begins() -> None:
    assert (Lineage().target, BACK.target, BACK.launched().target) == (None, 100, None)


def test_a_target_that_cannot_be_had_gives_way_to_an_older_one() -> None:
    older = BACK.retargeted(80)
    assert (older.target, older.ladder.targets, older.unresolved) == (80, (80,), ((101, 130),))
    assert [item.step for item in older.known.snapshots] == [50, 80]
    assert not older.holds(90, 4)
    assert older.retargeted(50).ladder.targets == (50,)


def test_a_target_gives_way_to_none_that_is_newer_and_only_while_it_is_pending() -> None:
    assert BACK.retargeted(100) is BACK
    assert BACK.retargeted(120) is BACK
    assert BACK.launched().retargeted(50) == BACK.launched()


def test_what_the_ladder_has_not_tried_is_left_alone() -> None:
    asked = BACK.launched().rolled_back(Rollback(100, 120, 5, cause=RollbackCause.REQUEST))
    assert asked.retargeted(80).ladder == BACK.ladder


def test_data_is_left_out_for_good_once_a_worker_has_said_where_it_lies() -> None:
    skip, inherited = Skip((0, 800), (0, 1040)), Skip((0, 0), (0, 8), "batches")
    assert BACK.skips == ()
    resolved = BACK.resolved([skip])
    assert (resolved.skips, resolved.unresolved) == ((skip,), ())
    assert resolved.resolved([inherited]) is resolved
    assert Lineage(inherited=(inherited,)).rolled_back(BACK.rollbacks[0]).resolved([skip]).skips == (inherited, skip)


def test_what_an_earlier_rollback_was_to_leave_out_is_not_forgotten_with_the_next_one() -> None:
    again = BACK.launched().rolled_back(Rollback(80, 120, 5, (95, 99)))
    assert again.unresolved == ((101, 130), (95, 99))
    first, second = Skip((0, 800), (0, 1040)), Skip((0, 752), (0, 792))
    assert again.resolved([first]) is again, "said by a round that knew of the first alone"
    assert again.resolved([first, second]).skips == (first, second)
    partly = BACK.resolved([first]).rolled_back(again.rollbacks[-1])
    assert partly.unresolved == ((95, 99),)
    assert partly.resolved([second]).skips == (first, second)
    assert (partly.without_unresolved().skips, partly.without_unresolved().unresolved) == ((first,), ())


def test_the_learning_rate_is_that_of_the_last_rollback_or_of_the_run_it_was_forked_from() -> None:
    assert Lineage().lr_factor == 1.0
    forked = Lineage(inherited_lr_factor=0.5)
    assert forked.lr_factor == 0.5
    assert forked.rolled_back(Rollback(1, 2, 0, lr_factor=0.25)).lr_factor == 0.25


@pytest.mark.parametrize(
    ("rollback", "told"),
    [
        (Rollback(100, 130, 0), "to step 100"),
        (Rollback(0, 130, 0, (1, 9)), "to the beginning, leaving out the data of steps 1 to 9"),
        (Rollback(9, 10, 0, lr_factor=0.5), "to step 9, learning rate × 0.5"),
    ],
)
def test_what_was_done_in_words(rollback: Rollback, told: str) -> None:
    assert rollback.told == told


STEPS = st.integers(0, 10**9)
SKIPS = st.builds(Skip, st.tuples(STEPS, STEPS), st.tuples(STEPS, STEPS), st.sampled_from(["samples", "batches"]))
ROLLBACKS = st.builds(
    Rollback,
    STEPS,
    STEPS,
    st.integers(-1, 99),
    st.none() | st.tuples(STEPS, STEPS),
    st.none() | SKIPS,
    st.floats(1e-6, 1.0),
    st.sampled_from(RollbackCause),
    st.text(),
)


@given(st.lists(ROLLBACKS, max_size=4), st.lists(SKIPS, max_size=2), st.booleans())
def test_it_goes_through_json_unchanged(rollbacks: list[Rollback], inherited: list[Skip], pending: bool) -> None:
    lineage = Lineage(
        tuple(rollbacks), pending, KNOWN.alarmed(90, 5), BACK.ladder, Fork("other", 3, "x"), tuple(inherited), 0.5
    )
    assert Lineage.from_json(json.loads(json.dumps(lineage.to_json()))) == lineage


@pytest.mark.parametrize(
    "saved",
    [None, [], 3, "x", {}, {"format": 99}, {**BACK.to_json(), "rollbacks": [{}]}, {**BACK.to_json(), "known": None}],
)
def test_what_is_no_lineage_is_a_value_error(saved: Any) -> None:
    with pytest.raises(ValueError, match="not a lineage"):
        Lineage.from_json(saved)
