"""Which committed snapshots stay, and why: each rule alone, and what holds for all of them together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.protocol.settings import BestMode, RetentionSettings
from resilient.snapshot.retention import Candidate, Reason, best_first, judge

ONE = RetentionSettings(last=1)


def snapshots(*steps: int, **losses: float) -> list[Candidate]:
    """One snapshot a minute; ``s20=0.5`` gives that of step 20 a loss."""
    return [
        Candidate(step, 60.0 * number, {"loss": losses[f"s{step}"]} if f"s{step}" in losses else {})
        for number, step in enumerate(steps)
    ]


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        step=st.integers(0, 60),
        created=st.floats(0, 1000),
        metrics=st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.floats()),
        pinned=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.step,
)
SETTINGS = st.builds(
    RetentionSettings,
    last=st.integers(1, 5),
    best=st.integers(0, 3),
    best_metric=st.sampled_from(["loss", "accuracy", "unknown"]),
    best_mode=st.sampled_from(BestMode),
    every_steps=st.integers(0, 20),
    every_seconds=st.sampled_from([0.0, 1.0, 100.0, 1e9]),
)


# --- each rule


def test_the_last_ones_stay() -> None:
    verdict = judge(snapshots(10, 20, 30, 40), RetentionSettings(last=2))
    assert verdict.removable == (10, 20)
    assert verdict.kept == {30: (Reason.LAST,), 40: (Reason.NEWEST, Reason.LAST)}


def test_the_order_of_the_catalog_does_not_matter() -> None:
    assert judge(snapshots(40, 10, 30, 20), ONE).removable == (10, 20, 30)


def test_nothing_is_removed_from_nothing() -> None:
    assert judge([], ONE).removable == ()


@pytest.mark.parametrize(("mode", "kept"), [(BestMode.min, 20), (BestMode.max, 30)])
def test_the_best_by_a_metric_stays(mode: BestMode, kept: int) -> None:
    found = snapshots(10, 20, 30, 40, s10=2.0, s20=1.0, s30=3.0, s40=2.5)
    verdict = judge(found, replace(ONE, best=1, best_metric="loss", best_mode=mode))
    assert verdict.kept == {kept: (Reason.BEST,), 40: (Reason.NEWEST, Reason.LAST)}


def test_of_equally_good_ones_the_newer_is_better() -> None:
    found = snapshots(10, 20, 30, s10=1.0, s20=1.0, s30=1.0)
    for mode in BestMode:
        assert best_first(found, "loss", mode) == [30, 20, 10]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_or_was_not_reported_is_never_best(value: float) -> None:
    found = snapshots(10, 20, 30, 40, s10=value, s20=5.0, s40=value)
    for mode in BestMode:
        assert best_first(found, "loss", mode) == [20]
        verdict = judge(found, replace(ONE, best=3, best_metric="loss", best_mode=mode))
        assert verdict.removable == (10,)
        assert verdict.kept[30] == (Reason.GOOD,)


def test_the_newest_before_which_the_loss_was_finite_stays() -> None:
    verdict = judge(snapshots(10, 20, 30, 40, s10=1.0, s20=0.9, s30=math.nan, s40=math.inf), ONE)
    assert verdict.kept == {20: (Reason.GOOD,), 40: (Reason.NEWEST, Reason.LAST)}
    assert judge(snapshots(10, 20, s10=1.0, s20=0.9), ONE).removable == (10,)


def test_multiples_of_a_step_stay() -> None:
    assert judge(snapshots(0, 5, 10, 15, 20, 25), replace(ONE, every_steps=10)).removable == (5, 15)


def test_a_chain_spaced_in_time_stays_and_grows_from_its_oldest() -> None:
    """New snapshots arrive one by one, and old ones are deleted each time; the chain must not move with the newest."""
    settings = replace(ONE, every_seconds=150.0)
    left: list[Candidate] = []
    for candidate in snapshots(*range(1, 12)):
        removable = judge([*left, candidate], settings).removable
        left = [one for one in [*left, candidate] if one.step not in removable]
    assert [one.step for one in left] == [1, 4, 7, 10, 11]


def test_the_pinned_and_those_in_use_stay() -> None:
    found = snapshots(10, 20, 30, 40)
    found[0] = replace(found[0], pinned=True)
    verdict = judge(found, ONE, in_use=[20, 99])
    assert verdict.removable == (30,)
    assert verdict.kept[10] == (Reason.PINNED,)
    assert verdict.kept[20] == (Reason.IN_USE,)


# --- all of them together


@given(CANDIDATES, SETTINGS, st.sets(st.integers(0, 60)))
def test_the_newest_the_pinned_and_those_in_use_are_never_removed(
    candidates: list[Candidate], settings: RetentionSettings, in_use: set[int]
) -> None:
    verdict = judge(candidates, settings, in_use=in_use)
    steps = {candidate.step for candidate in candidates}
    gone, kept = set(verdict.removable), set(verdict.kept)
    assert (gone | kept, gone & kept) == (steps, set())
    assert list(verdict.removable) == sorted(gone)
    assert all(verdict.kept.values())
    good = [candidate.step for candidate in candidates if all(map(math.isfinite, candidate.metrics.values()))]
    assert max(good, default=None) not in gone
    assert not gone & (in_use | {candidate.step for candidate in candidates if candidate.pinned})
    if steps:
        assert max(steps) in kept
        assert len(kept) >= min(settings.last, len(steps))


@given(CANDIDATES, SETTINGS)
def test_what_was_kept_is_kept_again(candidates: list[Candidate], settings: RetentionSettings) -> None:
    kept = judge(candidates, settings).kept
    left = [candidate for candidate in candidates if candidate.step in kept]
    assert judge(left, settings).removable == ()


@given(CANDIDATES, SETTINGS)
def test_a_rule_more_never_removes_more(candidates: list[Candidate], settings: RetentionSettings) -> None:
    """Compared with the settings that have one rule less, for each rule."""
    less: list[dict[str, Any]] = [{"last": 1}, {"best": 0}, {"every_steps": 0}, {"every_seconds": 0.0}]
    gone = set(judge(candidates, settings).removable)
    for change in less:
        assert gone <= set(judge(candidates, replace(settings, **change)).removable)


@given(CANDIDATES, st.floats(1, 500))
def test_a_chain_has_no_two_too_near_and_nothing_removed_that_was_far_enough(
    candidates: list[Candidate], seconds: float
) -> None:
    verdict = judge(candidates, replace(ONE, every_seconds=seconds))
    created = {candidate.step: candidate.created for candidate in candidates}
    chain = sorted(created[step] for step, reasons in verdict.kept.items() if Reason.EVERY_SECONDS in reasons)
    assert all(later - earlier >= seconds * (1 - 1e-9) for earlier, later in zip(chain, chain[1:], strict=False))
    for step in verdict.removable:
        assert any(link <= created[step] < link + seconds for link in chain)
