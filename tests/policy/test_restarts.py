"""The stop rules, each alone and joined, as histories of failed rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError, ExitCode
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.restarts import (
    FailedRound,
    History,
    RestartSettings,
    StopRule,
    Verdict,
    stop_after_failures,
    stop_on_crash_loop,
    stop_on_incurable,
    stop_on_intensity,
    stop_rule,
)
from resilient.policy.waits import wait_before_relaunch

KILLED = Failure(FailureClass.KILLED, "SIGKILL")
SEGFAULT = Failure(FailureClass.CRASH, "SIGSEGV")
CODE = Failure(FailureClass.CODE, "TypeError: bad")
HANG = Failure(FailureClass.HANG, "no progress in phase step")
DISK = Failure(FailureClass.DISK, "OSError: No space left on device")
HOST_OOM = Failure(FailureClass.HOST_OOM, "MemoryError")
DEVICE_OOM = Failure(FailureClass.DEVICE_OOM, "OutOfMemoryError: CUDA out of memory")


def moved(failure: Failure = KILLED, *, step: int = 10, at: float = 0.0) -> FailedRound:
    """A round that went one step further than any before it, and then failed."""
    return FailedRound(failure, step - 1, step, at)


def stuck(failure: Failure = KILLED, *, step: int = 10, at: float = 0.0) -> FailedRound:
    """A round that failed without reaching a new step."""
    return FailedRound(failure, step, step, at)


def history(*rounds: FailedRound) -> History:
    return History(rounds)


def code_of(verdict: Verdict | None) -> ExitCode | None:
    return None if verdict is None else verdict.exit_code


# --- the history


def test_progress_is_measured_against_the_furthest_step_of_all_rounds() -> None:
    repeated = FailedRound(KILLED, furthest=100, step=90, at=0)
    assert not repeated.progressed
    assert FailedRound(KILLED, furthest=100, step=101, at=0).progressed


def test_since_progress_begins_with_the_round_that_moved() -> None:
    first, second, third = moved(step=5), stuck(step=5), stuck(SEGFAULT, step=5)
    assert history(stuck(), first, second, third).since_progress() == (first, second, third)
    assert history(second, third).since_progress() == (second, third)
    assert history().since_progress() == ()


def test_the_history_is_bounded_and_keeps_the_latest() -> None:
    grown = History()
    for number in range(History.LIMIT + 5):
        grown = grown.add(stuck(at=float(number)))
    assert len(grown.rounds) == History.LIMIT
    assert grown.rounds[0].at == 5.0
    assert grown.rounds[-1].at == History.LIMIT + 4


# --- incurable errors


def test_a_code_error_before_any_progress_stops_at_once() -> None:
    verdict = stop_on_incurable()(history(stuck(CODE, step=0)))
    assert code_of(verdict) is ExitCode.WORKER_ERROR
    assert verdict is not None
    assert CODE.signature in verdict.reason


def test_a_code_error_after_progress_is_retried_once() -> None:
    rule = stop_on_incurable()
    assert rule(history(moved(CODE))) is None
    assert code_of(rule(history(moved(CODE), stuck(CODE)))) is ExitCode.WORKER_ERROR


@pytest.mark.parametrize("failure", [HOST_OOM, DEVICE_OOM], ids=["host", "device"])
def test_out_of_memory_is_tried_twice_without_progress(failure: Failure) -> None:
    rule = stop_on_incurable()
    assert rule(history(stuck(failure))) is None
    assert code_of(rule(history(stuck(failure), stuck(failure)))) is ExitCode.WORKER_ERROR


def test_a_full_disk_has_its_own_exit_code() -> None:
    assert code_of(stop_on_incurable()(history(stuck(DISK), stuck(DISK)))) is ExitCode.DISK_FULL


def test_progress_gives_the_incurable_a_new_chance() -> None:
    assert stop_on_incurable()(history(stuck(HOST_OOM), moved(HOST_OOM, step=20))) is None


@pytest.mark.parametrize("failure", [HOST_OOM, DEVICE_OOM], ids=["host", "device"])
def test_out_of_memory_again_at_once_after_progress_is_not_tried_a_third_time(failure: Failure) -> None:
    assert code_of(stop_on_incurable()(history(moved(failure), stuck(failure)))) is ExitCode.WORKER_ERROR


def test_failures_of_another_class_between_do_not_count_as_the_incurable_one() -> None:
    assert stop_on_incurable()(history(stuck(HOST_OOM), stuck(KILLED))) is None
    assert stop_on_incurable()(history(stuck(KILLED), stuck(KILLED), stuck(HOST_OOM))) is None


@pytest.mark.parametrize("failure", [KILLED, SEGFAULT, HANG])
def test_what_a_relaunch_may_cure_is_never_incurable(failure: Failure) -> None:
    assert stop_on_incurable()(history(*[stuck(failure)] * 50)) is None


# --- crash loops


def test_three_times_the_same_at_the_same_step_is_a_loop() -> None:
    rule = stop_on_crash_loop(3)
    assert rule(history(stuck(SEGFAULT), stuck(SEGFAULT))) is None
    assert code_of(rule(history(stuck(SEGFAULT), stuck(SEGFAULT), stuck(SEGFAULT)))) is ExitCode.CRASH_LOOP


def test_the_round_that_reached_the_step_counts_as_the_first_of_the_loop() -> None:
    assert code_of(stop_on_crash_loop(3)(history(moved(SEGFAULT), stuck(SEGFAULT), stuck(SEGFAULT)))) is not None


def test_a_loop_of_hangs_has_its_own_exit_code() -> None:
    assert code_of(stop_on_crash_loop(2)(history(stuck(HANG), stuck(HANG)))) is ExitCode.HUNG


@pytest.mark.parametrize(
    "other",
    [stuck(KILLED), stuck(SEGFAULT, step=11), moved(SEGFAULT), stuck(replace(SEGFAULT, signature="SIGBUS"))],
    ids=["another failure", "another step", "progress", "another signature"],
)
def test_anything_else_in_between_breaks_the_loop(other: FailedRound) -> None:
    rule = stop_on_crash_loop(3)
    assert rule(history(stuck(SEGFAULT), other, stuck(SEGFAULT))) is None


def test_the_verdict_of_a_loop_shows_signature_and_step() -> None:
    verdict = stop_on_crash_loop(2)(history(stuck(SEGFAULT, step=42), stuck(SEGFAULT, step=42)))
    assert verdict is not None
    assert verdict.reason == "SIGSEGV: 2 times in a row after step 42"


# --- budgets


def test_so_many_failures_without_progress_whatever_their_causes() -> None:
    rule = stop_after_failures(3)
    assert rule(history(stuck(KILLED), stuck(SEGFAULT))) is None
    assert code_of(rule(history(stuck(KILLED), stuck(SEGFAULT), stuck(HANG)))) is ExitCode.BUDGET_SPENT
    assert rule(history(stuck(), stuck(), moved(), stuck(), stuck())) is None


def test_intensity_counts_progress_or_not_but_only_within_the_time() -> None:
    rule = stop_on_intensity(2, 60.0)
    assert rule(history(moved(at=0), moved(at=30, step=20))) is None
    assert code_of(rule(history(moved(at=0), moved(at=30, step=20), moved(at=60, step=30)))) is ExitCode.BUDGET_SPENT
    assert rule(history(moved(at=0), moved(at=30, step=20), moved(at=60.1, step=30))) is None


# --- joining


def _says(name: str, *, objects: bool) -> StopRule:
    verdict = Verdict(ExitCode.CRASH_LOOP, name) if objects else None
    return StopRule(lambda _history: verdict, name)


def test_joined_rules_object_when_one_does_and_the_first_one_speaks() -> None:
    yes, also, no = _says("yes", objects=True), _says("also", objects=True), _says("no", objects=False)
    assert (no | no)(history(stuck())) is None
    for rule in (yes | no, no | yes, yes | also, no | yes | also):
        verdict = rule(history(stuck()))
        assert verdict is not None
        assert verdict.reason == "yes"


def test_a_joined_rule_is_named_after_its_parts() -> None:
    assert (_says("a", objects=True) | _says("b", objects=False)).name == "a | b"
    assert stop_rule(RestartSettings()).name == "incurable | crash loop of 3 | 10 failures | more than 30 in 600 s"


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_joining_is_associative(answers: list[bool]) -> None:
    rules = [_says(str(number), objects=answer) for number, answer in enumerate(answers)]
    left, right = rules[0], rules[-1]
    for rule in rules[1:]:
        left = left | rule
    for rule in reversed(rules[:-1]):
        right = rule | right
    assert left(history(stuck())) == right(history(stuck()))


def test_the_most_telling_diagnosis_comes_first() -> None:
    """A code error that is also a loop and also over budget is reported as the code error it is."""
    settings = RestartSettings(max_failures=1, crash_loop=1, intensity=1)
    assert code_of(stop_rule(settings)(history(stuck(CODE), stuck(CODE)))) is ExitCode.WORKER_ERROR
    assert code_of(stop_rule(settings)(history(stuck(SEGFAULT), stuck(SEGFAULT)))) is ExitCode.CRASH_LOOP


FAILED = st.builds(
    FailedRound,
    st.sampled_from([KILLED, SEGFAULT, HANG, HOST_OOM]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0, 1e6),
)


@given(st.lists(FAILED, min_size=1, max_size=40))
def test_a_run_without_progress_cannot_be_relaunched_for_ever(rounds: list[FailedRound]) -> None:
    """Whatever went before: from here on without a new step, the rules object after at most ``max_failures`` rounds."""
    settings = RestartSettings(max_failures=5)
    grown = History(tuple(rounds))
    for number in range(settings.max_failures):
        grown = grown.add(stuck(Failure(FailureClass.KILLED, f"cause {number}"), at=1e7 + 1e4 * number))
    assert stop_rule(settings)(grown) is not None


# --- waiting


def test_the_first_failures_are_relaunched_at_once_then_the_wait_doubles() -> None:
    settings = RestartSettings(first_wait=1.0, max_wait=5.0, jitter=0.0)
    waits = [wait_before_relaunch(settings, history(moved(), *[stuck()] * count)) for count in range(6)]
    assert waits == [0.0, 0.0, 1.0, 2.0, 4.0, 5.0]


def test_the_longest_history_does_not_overflow_the_wait() -> None:
    settings = RestartSettings(max_wait=60.0, jitter=0.0)
    assert wait_before_relaunch(settings, history(*[stuck()] * History.LIMIT)) == 60.0


# --- settings


@pytest.mark.parametrize("field", ["max_failures", "intensity", "crash_loop"])
@pytest.mark.parametrize("value", [0, -1, History.LIMIT])
def test_a_budget_outside_the_history_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"restarts\.{field}"):
        replace(RestartSettings(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "longest"), [(-1.0, 5.0), (10.0, 5.0)])
def test_waits_out_of_order_are_refused(first: float, longest: float) -> None:
    with pytest.raises(ConfigurationError, match=r"restarts\.first_wait"):
        RestartSettings(first_wait=first, max_wait=longest)


def test_bad_hardware_counts_against_the_machine_that_has_it() -> None:
    bad = Failure(FailureClass.HARDWARE, "Xid 79")
    here, there = replace(stuck(bad), rank=0), replace(stuck(bad), rank=9)
    rule = stop_rule(RestartSettings())
    assert rule(history(here, there, here, there)) is None, "two of each"
    assert code_of(rule(history(here, there, here, there, here))) is not None
    unknown = stuck(bad)
    assert code_of(rule(history(unknown, unknown, unknown))) is not None
