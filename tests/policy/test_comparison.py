"""What replays say, for devices that err once, always, or differently each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.comparison import (
    CONFIRMING,
    Case,
    Place,
    Records,
    Replay,
    Want,
    compare,
    examine,
    first_difference,
)
from resilient.policy.verdict import Verdict, VerdictKind

NAMES = ("batch", "loss", "norm")
Device = Callable[[int, Want], Records]
"""What the so-manieth replay of a kind computes."""


def records(
    changed: Mapping[str, Mapping[int, float]] | None = None,
    *,
    last: int = 10,
    ranks: int = 1,
    **more: dict[int, float],
) -> dict[int, dict[tuple[int, str], float]]:
    """Steps that are what they should be, but for what is changed by name and step, on rank 0."""
    found: dict[int, dict[tuple[int, str], float]] = {}
    for step in range(1, last + 1):
        found[step] = {(rank, name): float(step * 10 + rank) for rank in range(ranks) for name in NAMES}
        for name, values in {**(changed or {}), **more}.items():
            if step in values:
                found[step][0, name] = values[step]
    return found


def from_on(step: int, value: float, last: int = 10) -> dict[int, float]:
    """An error that stays in the state: every later step is another one."""
    return {later: value + later for later in range(step, last + 1)}


def stopped(original: Records, replayed: Records) -> Records:
    """As far as a replay goes: a few steps beyond the first that differs."""
    found = first_difference(original, replayed, NAMES)
    last = math.inf if found is None else found.step + CONFIRMING
    return {step: record for step, record in replayed.items() if step <= last}


def drive(
    original: Records, device: Device, *, elsewhere: bool = True, onset: int | None = 8
) -> tuple[Verdict, list[Want]]:
    """Make the replays that are asked for until there is a verdict."""
    replays: list[Replay] = []
    wanted: list[Want] = []
    while True:
        case = Case(original, tuple(replays), NAMES, "batch", onset, elsewhere)
        found = examine(case)
        if isinstance(found, Verdict):
            assert compare(case) == found
            return found, wanted
        assert compare(case).kind is VerdictKind.INCONCLUSIVE
        computed = stopped(original, device(wanted.count(found), found))
        replays.append(Replay(found.place, computed, deterministic=found.deterministic))
        wanted.append(found)
        assert len(wanted) <= 5


HERE, ELSEWHERE = Want(Place.HERE), Want(Place.ELSEWHERE)


def test_the_same_everywhere() -> None:
    verdict, wanted = drive(records(), lambda _, __: records())
    assert verdict.kind is VerdictKind.REPRODUCED
    assert wanted == [HERE, ELSEWHERE]
    verdict, wanted = drive(records(), lambda _, __: records(), elsewhere=False)
    assert verdict.kind is VerdictKind.REPRODUCED
    assert "no other device" in verdict.reason
    assert wanted == [HERE]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_an_error_of_the_moment_is_found_in_its_step(name: str, elsewhere: bool) -> None:
    original = records({name: from_on(5, 0.25)})
    verdict, wanted = drive(original, lambda _, __: records(), elsewhere=elsewhere)
    assert verdict.kind is VerdictKind.TRANSIENT_HARDWARE
    assert verdict.step == 5
    assert f"{name} of step 5 was 5.25, and is 50.0" in verdict.reason
    assert wanted == [HERE, HERE, *([ELSEWHERE] if elsewhere else [])]


def test_in_a_single_value_that_leaves_no_trace() -> None:
    verdict, _ = drive(records(loss={6: math.nan}), lambda _, __: records(), elsewhere=False)
    assert (verdict.kind, verdict.step) == (VerdictKind.TRANSIENT_HARDWARE, 6)


def test_a_device_that_always_errs_is_told_by_another() -> None:
    original = records(loss={7: 1.5})
    verdict, wanted = drive(original, lambda _, want: original if want.place is Place.HERE else records())
    assert (verdict.kind, verdict.step) == (VerdictKind.PERSISTENT_HARDWARE, 7)
    assert wanted == [HERE, ELSEWHERE, ELSEWHERE]
    verdict, _ = drive(original, lambda _, __: original, elsewhere=False)
    assert verdict.kind is VerdictKind.REPRODUCED, "nobody could know better"


def test_a_device_that_errs_anew_each_time_is_told_by_another() -> None:
    def device(number: int, want: Want) -> Records:
        return records(loss={6: 1000.0 + number}) if want.place is Place.HERE else records()

    verdict, wanted = drive(records(loss={6: 1.0}), device)
    assert verdict.kind is VerdictKind.PERSISTENT_HARDWARE
    assert wanted == [HERE, HERE, ELSEWHERE, ELSEWHERE]
    assert drive(records(loss={6: 1.0}), device, elsewhere=False)[0].kind is VerdictKind.NOT_REPRODUCIBLE


def test_a_device_that_has_begun_to_err_is_told_by_another_that_agrees_with_the_run() -> None:
    verdict, _ = drive(records(), lambda _, want: records(loss={3: 1.0}) if want.place is Place.HERE else records())
    assert verdict.kind is VerdictKind.PERSISTENT_HARDWARE


def test_data_that_is_not_the_same_twice() -> None:
    def device(number: int, want: Want) -> Records:
        noise = 1000.0 + 7 * number + 3 * (want.place is Place.ELSEWHERE)
        return records(batch=from_on(2, noise), loss=from_on(2, noise))

    verdict, _ = drive(records(), device)
    assert verdict.kind is VerdictKind.NOT_REPRODUCIBLE
    assert "the data is not the same twice" in verdict.reason


def test_kernels_that_are_not_deterministic_are_named_by_torch() -> None:
    original, replays = records(), [Replay(Place.HERE, records(loss=from_on(1, noise))) for noise in (0.1, 0.2)]
    case = Case(original, tuple(replays), NAMES, "batch", onset=8)
    assert examine(case) == Want(Place.HERE, deterministic=True)
    named = Replay(Place.HERE, original, deterministic=True, warnings=("put_ is not deterministic",))
    verdict = compare(Case(original, (*replays, named), NAMES, "batch", onset=8))
    assert verdict.kind is VerdictKind.NOT_REPRODUCIBLE
    assert verdict.evidence == ("put_ is not deterministic",)
    assert "before anything looked wrong" in verdict.reason
    unnamed = Replay(Place.HERE, original, deterministic=True)
    assert "nobody seeds" in compare(Case(original, (*replays, unnamed), NAMES, "batch", onset=8)).evidence[0]


def test_what_differs_from_the_first_step_on_is_not_blamed_on_hardware() -> None:
    verdict, _ = drive(records(loss=from_on(1, 0.5)), lambda _, __: records())
    assert verdict.kind is VerdictKind.NOT_REPRODUCIBLE
    assert "does not hold" in verdict.reason
    verdict, _ = drive(records(loss=from_on(1, 0.5)), lambda _, __: records(), onset=1)
    assert verdict.kind is VerdictKind.TRANSIENT_HARDWARE, "it looked wrong at once"


def test_another_kind_of_device_says_nothing() -> None:
    other = records(loss=from_on(1, 0.5))
    verdict, _ = drive(records(), lambda _, want: records() if want.place is Place.HERE else other)
    assert verdict.kind is VerdictKind.REPRODUCED
    assert "another kind" in verdict.evidence[0]


def test_another_device_that_does_not_agree_with_itself_says_nothing() -> None:
    def device(number: int, want: Want) -> Records:
        return records() if want.place is Place.HERE else records(loss={4: 1.0 + number})

    assert drive(records(), device)[0].kind is VerdictKind.REPRODUCED


def test_nothing_to_compare_and_replays_that_fail() -> None:
    assert compare(Case({}, (), NAMES)).kind is VerdictKind.INCONCLUSIVE
    assert compare(Case({1: {(0, "lr"): 1.0}}, (), NAMES)).kind is VerdictKind.INCONCLUSIVE
    failed = Replay(Place.HERE, records(last=4), "out of memory")
    verdict = compare(Case(records(), (failed,), NAMES))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "out of memory" in verdict.reason
    silent = Replay(Place.HERE, {1: {(0, "lr"): 1.0}})
    assert compare(Case(records(), (silent,), NAMES)).kind is VerdictKind.INCONCLUSIVE
    different = Replay(Place.HERE, records(loss={3: 0.5}))
    assert compare(Case(records(), (different, failed), NAMES)).kind is not VerdictKind.TRANSIENT_HARDWARE
    early = Replay(Place.HERE, records(last=2), "killed")
    assert compare(Case(records(), (different, early), NAMES)).kind is VerdictKind.INCONCLUSIVE
    elsewhere = Replay(Place.ELSEWHERE, {}, "no such device")
    verdict = compare(Case(records(), (Replay(Place.HERE, records()), elsewhere), NAMES, elsewhere=True))
    assert verdict.kind is VerdictKind.REPRODUCED
    assert "no such device" in verdict.evidence[0]


def test_bits_are_compared_and_the_earliest_cause_comes_first() -> None:
    one, other = {1: {(0, "loss"): 0.0}}, {1: {(0, "loss"): -0.0}}
    assert first_difference(one, other, NAMES) is not None
    assert first_difference({1: {(0, "loss"): math.nan}}, {1: {(0, "loss"): math.nan}}, NAMES) is None
    found = first_difference(records(loss={2: 0.0}), records(batch={2: 0.0}, norm={1: 0.0}), ("batch", "loss"))
    assert found is not None
    assert (found.step, found.name) == (2, "batch")
    two = records(ranks=2)
    two[4][1, "loss"] = 0.5
    found = first_difference(records(ranks=2), two, NAMES)
    assert found is not None
    assert str(found) == "loss of rank 1 of step 4 was 41.0, and is 0.5"


def test_of_one_step_the_data_of_any_rank_comes_before_what_is_made_of_it() -> None:
    found_on_both = records({"loss": {4: 0.5}}, ranks=2)
    found_on_both[4][1, "batch"] = 0.5
    found = first_difference(records(ranks=2), found_on_both, NAMES)
    assert found is not None
    assert (found.rank, found.name) == (1, "batch")


def test_a_replay_elsewhere_that_does_not_come_so_far_agrees_with_nothing() -> None:
    here = [Replay(Place.HERE, records(loss={6: noise})) for noise in (0.1, 0.2)]
    there = [Replay(Place.ELSEWHERE, records()), Replay(Place.ELSEWHERE, records(last=3), "killed")]
    case = Case(records(loss={6: 0.3}), (*here, *there), NAMES, "batch", 6, elsewhere=True)
    assert examine(case) == Want(Place.HERE, deterministic=True)


@given(
    place=st.tuples(st.integers(2, 10), st.sampled_from(NAMES)),
    value=st.floats(allow_nan=True, allow_infinity=True),
    stays=st.booleans(),
    elsewhere=st.booleans(),
    onset=st.one_of(st.none(), st.integers(2, 10)),
)
def test_any_single_error_of_the_run_is_transient_at_its_step(
    place: tuple[int, str], value: float, stays: bool, elsewhere: bool, onset: int | None
) -> None:
    step, name = place
    changed = dict.fromkeys(range(step, 11 if stays else step + 1), value)
    original = records({name: changed})
    found = first_difference(original, records(), NAMES)
    verdict, _ = drive(original, lambda _, __: records(), elsewhere=elsewhere, onset=onset)
    if found is None:
        assert verdict.kind is VerdictKind.REPRODUCED
    else:
        assert (verdict.kind, verdict.step) == (VerdictKind.TRANSIENT_HARDWARE, found.step)


@given(
    errors=st.lists(st.dictionaries(st.integers(1, 10), st.floats(0.0, 1.0), max_size=4), min_size=6, max_size=6),
    elsewhere=st.booleans(),
    onset=st.one_of(st.none(), st.integers(1, 10)),
)
def test_whatever_devices_do_there_is_a_verdict_and_hardware_is_blamed_only_where_replays_agree(
    errors: Sequence[dict[int, float]], elsewhere: bool, onset: int | None
) -> None:
    made: list[tuple[Want, Records]] = []

    def device(_: int, want: Want) -> Records:
        made.append((want, records(loss=errors[len(made)])))
        return made[-1][1]

    original = records(loss=errors[-1])
    verdict, _ = drive(original, device, elsewhere=elsewhere, onset=onset)
    step = verdict.step
    here = [done[step] for want, done in made if want == HERE] if step is not None else []
    there = [done[step] for want, done in made if want == ELSEWHERE] if step is not None else []
    if verdict.kind is VerdictKind.TRANSIENT_HARDWARE:
        assert step is not None
        assert here[0] == here[1] != original[step]
    if verdict.kind is VerdictKind.PERSISTENT_HARDWARE:
        assert step is not None
        assert there
        assert all(other == there[0] for other in there)
    if verdict.kind is VerdictKind.REPRODUCED:
        assert first_difference(original, made[0][1], NAMES) is None
