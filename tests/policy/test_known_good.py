"""Which snapshots are trusted, as histories."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.divergence import Alarm, Divergence, DivergenceKind, DivergenceSettings, Finding, Recovered
from resilient.policy.divergence.known_good import Grade, KnownGood

MARGIN, GOOD_AFTER = 10, 100


def after(*steps: int, now: int | None = None) -> KnownGood:
    """Snapshots of these steps, training now at the last of them or at ``now``."""
    known = KnownGood()
    for step in steps:
        known = known.taken(step, MARGIN).advanced(step, GOOD_AFTER)
    return known.advanced(now if now is not None else steps[-1], GOOD_AFTER)


def grades(known: KnownGood) -> dict[int, Grade]:
    return {item.step: item.grade for item in known.snapshots}


def test_a_snapshot_is_good_after_its_probation_and_not_before() -> None:
    assert grades(after(50, now=149)) == {50: Grade.TAKEN}
    assert grades(after(50, now=150)) == {50: Grade.GOOD}


def test_an_alarm_makes_suspect_what_was_taken_from_the_onset_less_the_margin() -> None:
    known = after(100, 140, 141, 150, now=160).alarmed(onset=150, margin=MARGIN)
    assert grades(known) == {100: Grade.TAKEN, 140: Grade.TAKEN, 141: Grade.SUSPECT, 150: Grade.SUSPECT}


def test_an_alarm_dated_back_makes_even_a_good_one_suspect() -> None:
    known = after(100, 200, now=300)
    assert grades(known) == {100: Grade.GOOD, 200: Grade.GOOD}
    assert grades(known.alarmed(onset=190, margin=MARGIN)) == {100: Grade.GOOD, 200: Grade.SUSPECT}


def test_nothing_becomes_good_while_an_alarm_is_open_and_what_is_taken_is_suspect() -> None:
    known = after(50, now=60).alarmed(onset=100, margin=MARGIN).taken(110, MARGIN).advanced(1000, GOOD_AFTER)
    assert grades(known) == {50: Grade.TAKEN, 110: Grade.SUSPECT}


def test_a_recovery_begins_the_probation_anew() -> None:
    known = after(50, 110, now=111).alarmed(onset=100, margin=MARGIN).recovered(130)
    assert grades(known.advanced(150, GOOD_AFTER)) == {50: Grade.GOOD, 110: Grade.TAKEN}
    assert grades(known.advanced(229, GOOD_AFTER))[110] is Grade.TAKEN
    assert grades(known.advanced(230, GOOD_AFTER))[110] is Grade.GOOD


def test_a_second_alarm_dates_the_first_back_but_never_forward() -> None:
    known = after(100, 150, now=160).alarmed(onset=155, margin=0).alarmed(onset=120, margin=0)
    assert grades(known) == {100: Grade.TAKEN, 150: Grade.SUSPECT}
    assert known.alarmed(onset=160, margin=0).onset == 120


def test_a_rollback_takes_what_came_after_off_the_lineage() -> None:
    known = after(100, 200, 300, now=310).alarmed(onset=250, margin=MARGIN)
    assert known.newest_good() == 200
    back = known.rolled_back(200)
    assert list(grades(back)) == [100, 200]
    assert back.onset is None


def test_a_suspect_one_that_training_goes_on_from_is_on_probation_again() -> None:
    back = after(100, 200, now=310).alarmed(onset=150, margin=MARGIN).rolled_back(200)
    assert grades(back) == {100: Grade.GOOD, 200: Grade.TAKEN}
    assert back.advanced(299, 100).newest_good() == 100
    assert back.advanced(300, 100).newest_good() == 200


def test_of_one_that_turns_up_nothing_is_known_before_now() -> None:
    known = after(100, now=310).found([100, 200], 300)
    assert grades(known) == {100: Grade.GOOD, 200: Grade.TAKEN}
    assert known.advanced(399, 100).newest_good() == 100
    assert known.advanced(400, 100).newest_good() == 200
    assert grades(known.alarmed(350, MARGIN).found([220], 360))[220] is Grade.SUSPECT


def test_a_snapshot_of_the_same_step_replaces_the_one_before_the_rollback() -> None:
    known = after(100, 200, now=310).taken(200, MARGIN)
    assert grades(known) == {100: Grade.GOOD, 200: Grade.TAKEN}


def test_the_newest_good_one_may_be_asked_for_before_some_step() -> None:
    known = after(100, 200, 300, now=500)
    assert known.newest_good() == 300
    assert known.newest_good(not_after=299) == 200
    assert known.newest_good(not_after=99) is None


def test_retention_keeps_one_that_an_alarm_of_now_leaves_good() -> None:
    known = after(100, 200, 300, 345, 400, now=500)
    kept = known.to_keep(step=500, latency=150, margin=MARGIN)
    assert kept == {300, 345, 400}
    for onset in range(500 - 150, 501):
        left = known.only(kept).alarmed(onset, MARGIN)
        assert left.newest_good() in kept


def test_there_is_always_one_old_enough_though_retention_deletes_all_else() -> None:
    """Snapshots every 10 steps, each good after 100: none would live so long if only the good ones were kept."""
    known, latency, worst = KnownGood(), 200, 0
    for step in range(10, 5000, 10):
        known = known.taken(step, MARGIN).advanced(step, 100)
        known = known.only({*known.to_keep(step, latency, MARGIN), step})
        assert len(known.snapshots) <= 5
        if step > 600:
            settled = known.newest_good(step - latency - MARGIN)
            assert settled is not None
            worst = max(worst, step - settled)
    assert worst <= 2 * (latency + MARGIN + 100)


def test_the_good_ones_before_the_newest_lie_at_growing_distances_though_retention_deletes_all_else() -> None:
    known = KnownGood()
    for step in range(10, 5000, 10):
        known = known.taken(step, MARGIN).advanced(step, 20)
        known = known.only({*known.to_keep(step, 200, MARGIN, 2), step})
        assert len(known.snapshots) <= 7
        good = sorted(item.step for item in known.snapshots if item.grade is Grade.GOOD)
        if len(good) > 3:
            assert good[-1] - good[-2] <= 150
            assert good[-1] - good[-3] <= 300
        if step == 190:  # a young run: nothing is as old as an alarm of now would want it
            assert len([item for item in good if 10 < item < good[-1]]) == 2
    assert known.to_keep(5000, 200, MARGIN, 0) < known.to_keep(5000, 200, MARGIN, 2)
    assert known.to_keep(5000, 200, MARGIN, 9) >= set(good)


def test_without_good_ones_there_are_no_rungs() -> None:
    assert KnownGood().to_keep(100, 200, MARGIN, 2) == frozenset()
    assert after(50, now=300).to_keep(300, 200, MARGIN, 2) == {50}


def test_what_retention_deleted_is_forgotten() -> None:
    assert list(grades(after(100, 200, 300).only([200, 900]))) == [200]


def finding(kind: type[Finding], what: DivergenceKind, onset: int, step: int) -> Finding:
    return kind(what, "loss", onset, step, step, 9.0, 3.0, 0.1)


def test_what_was_found_is_followed() -> None:
    settings = DivergenceSettings(margin=MARGIN, good_after=GOOD_AFTER)
    known = after(50, 140, now=149)
    spike = finding(Alarm, DivergenceKind.SPIKE, 145, 150)
    known = known.followed(settings, 150, (spike,), 145)
    assert grades(known) == {50: Grade.TAKEN, 140: Grade.SUSPECT}
    known = known.followed(settings, 151, (), 145)
    assert grades(known) == {50: Grade.TAKEN, 140: Grade.SUSPECT}
    known = known.followed(settings, 160, (finding(Recovered, DivergenceKind.SPIKE, 145, 160),), None)
    assert grades(known) == {50: Grade.TAKEN, 140: Grade.TAKEN}
    assert grades(known.followed(settings, 161, (), None)) == {50: Grade.GOOD, 140: Grade.TAKEN}


def test_an_alarm_that_ended_without_a_word_is_over_too() -> None:
    """A phase change forgets it."""
    known = after(140, now=149).alarmed(145, MARGIN).followed(DivergenceSettings(), 170, (), None)
    assert known.onset is None


def test_the_alarm_of_a_drift_shadows_nothing_but_its_divergence_does() -> None:
    settings = DivergenceSettings(margin=MARGIN, good_after=GOOD_AFTER)
    known = after(50, 140, now=300).followed(settings, 301, (finding(Alarm, DivergenceKind.DRIFT, 145, 301),), None)
    assert grades(known) == {50: Grade.GOOD, 140: Grade.GOOD}
    known = known.followed(settings, 350, (finding(Divergence, DivergenceKind.DRIFT, 145, 350),), 145)
    assert grades(known) == {50: Grade.GOOD, 140: Grade.SUSPECT}


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("taken"), st.integers(0, 500)),
        st.tuples(st.just("advanced"), st.integers(0, 500)),
        st.tuples(st.just("alarmed"), st.integers(0, 500)),
        st.tuples(st.just("recovered"), st.integers(0, 500)),
        st.tuples(st.just("rolled_back"), st.integers(0, 500)),
    ),
    max_size=30,
)


@given(EVENTS)
def test_nothing_in_the_shadow_of_an_open_alarm_is_ever_good(events: list[tuple[str, int]]) -> None:
    known = KnownGood()
    for name, step in events:
        if name in {"taken", "alarmed"}:
            known = getattr(known, name)(step, MARGIN)
        elif name == "advanced":
            known = known.advanced(step, GOOD_AFTER)
        else:
            known = getattr(known, name)(step)
        assert [item.step for item in known.snapshots] == sorted({item.step for item in known.snapshots})
        if known.onset is not None:
            shadow = [item for item in known.snapshots if item.step > known.onset - MARGIN]
            assert all(item.grade is Grade.SUSPECT for item in shadow)
        assert KnownGood.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_what_is_no_saved_state_is_refused() -> None:
    with pytest.raises(ValueError, match="splendid"):
        KnownGood.from_json({"snapshots": [[1, "splendid", 1]], "onset": None})
