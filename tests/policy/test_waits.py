"""How long a relaunch waits, and what gives budgets back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError, ExitCode
from resilient.policy.events import RunOpened, SnapshotsListed, StopKind, StopRequested, WorkerExited, WorkerProgressed
from resilient.policy.failed_rounds import FailedRound, History
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.machine import decide
from resilient.policy.restart_settings import RestartSettings
from resilient.policy.restarts import stop_per_class, stop_rule
from resilient.policy.state import PolicySettings, RunState
from resilient.policy.waits import (
    Wait,
    relaunch_wait,
    wait_before_relaunch,
    wait_exponential,
    wait_for_class,
    wait_jitter,
)

KILLED = Failure(FailureClass.KILLED, "SIGKILL")
HANG = Failure(FailureClass.HANG, "no progress")
IO = Failure(FailureClass.TRANSIENT_IO, "ConnectionResetError: reset")
OOM = Failure(FailureClass.DEVICE_OOM, "CUDA out of memory")


def stuck(*failures: Failure, step: int = 10) -> History:
    return History(tuple(FailedRound(failure, step, step, float(n)) for n, failure in enumerate(failures)))


# --- waits


def test_storage_that_does_not_answer_is_given_time_from_the_first_failure_on() -> None:
    settings = RestartSettings(jitter=0.0, max_wait=60.0)
    waits = [wait_before_relaunch(settings, stuck(*[IO] * count)) for count in (1, 2, 3, 5, 9)]
    assert waits == [5.0, 10.0, 20.0, 60.0, 60.0]


def test_the_least_wait_of_a_class_is_a_setting() -> None:
    settings = RestartSettings(jitter=0.0, class_waits={"transient_io": 0.0, "hang": 30.0})
    assert wait_before_relaunch(settings, stuck(IO)) == 0.0
    assert wait_before_relaunch(settings, stuck(HANG)) == 30.0
    assert wait_before_relaunch(settings, stuck(KILLED)) == 0.0


def test_jitter_is_a_part_of_the_wait_and_the_same_for_the_same_seed() -> None:
    settings = RestartSettings(jitter=0.5, first_wait=10.0, max_wait=10.0)
    history = stuck(KILLED, KILLED)
    waits = {wait_before_relaunch(settings, history, f"run-{number}/3") for number in range(50)}
    assert len(waits) == 50
    assert min(waits) >= 10.0
    assert max(waits) <= 15.0
    assert wait_before_relaunch(settings, history, "run-7/3") == wait_before_relaunch(settings, history, "run-7/3")


def test_no_wait_has_no_jitter() -> None:
    assert wait_before_relaunch(RestartSettings(jitter=1.0), stuck(KILLED), "x") == 0.0


def test_joined_waits_add_up_and_are_named_after_their_parts() -> None:
    two, three = Wait(lambda *_: 2.0, "two"), Wait(lambda *_: 3.0, "three")
    assert (two + three)(History()) == 5.0
    assert (two + three).name == "two + three"
    assert "exponential" in relaunch_wait(RestartSettings()).name


@given(st.integers(0, History.LIMIT), st.text(max_size=20))
def test_no_wait_is_longer_than_the_longest_and_its_jitter(failures: int, seed: str) -> None:
    settings = RestartSettings(max_wait=60.0, jitter=0.25)
    history = stuck(*[IO] * failures)
    assert 0 <= wait_before_relaunch(settings, history, seed) <= 75.0
    for wait in (wait_exponential(1.0, 60.0), wait_for_class({}, 60.0)):
        assert 0 <= wait_jitter(wait, 0.25)(history, seed) <= 15.0


# --- budgets of classes


def test_a_class_has_the_budget_that_is_set_for_it() -> None:
    rule = stop_per_class({FailureClass.HANG: 2})
    assert rule(stuck(HANG)) is None
    verdict = rule(stuck(HANG, KILLED, HANG))
    assert verdict is not None
    assert verdict.exit_code is ExitCode.HUNG
    assert "restarts.per_class.hang" in verdict.reason
    assert rule(stuck(KILLED, KILLED)) is None


def test_a_budget_of_its_own_takes_the_place_of_what_the_class_has_by_itself() -> None:
    settings = RestartSettings(per_class={"device_oom": 4}, crash_loop=9)
    assert stop_rule(RestartSettings(crash_loop=9))(stuck(OOM, OOM)) is not None
    assert stop_rule(settings)(stuck(OOM, OOM, OOM)) is None
    assert stop_rule(settings)(stuck(OOM, OOM, OOM, OOM)) is not None


@pytest.mark.parametrize(("setting", "key"), [("per_class", "hangs"), ("class_waits", "transient-oi")])
def test_an_unknown_class_is_refused_with_the_nearest(setting: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"restarts\.{setting}\.{key}") as caught:
        replace(RestartSettings(), **{setting: {key: 3}})  # type: ignore[arg-type]
    assert caught.value.remedy in {"did you mean hang?", "did you mean transient_io?"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_class", {"hang": 0}),
        ("per_class", {"hang": History.LIMIT}),
        ("class_waits", {"hang": -1.0}),
        ("jitter", 1.5),
        ("success_steps", 0),
        ("success_seconds", -1.0),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"restarts\.{name}"):
        replace(RestartSettings(), **{name: value})  # type: ignore[arg-type]


def test_a_class_may_be_named_as_it_is_shown() -> None:
    settings = RestartSettings(per_class={"HOST OOM": 3, "device-oom": 2})
    assert settings.budgets == {FailureClass.HOST_OOM: 3, FailureClass.DEVICE_OOM: 2}


# --- what counts as progress


def test_progress_may_need_more_than_one_step() -> None:
    assert FailedRound(KILLED, 10, 11, 0.0).progressed
    assert not FailedRound(KILLED, 10, 11, 0.0, needed=5).progressed
    assert FailedRound(KILLED, 10, 15, 0.0, needed=5).progressed
    assert FailedRound(KILLED, 10, 11, 0.0, needed=5, lasted=True).progressed
    assert not FailedRound(KILLED, 10, 10, 0.0, needed=5, lasted=True).progressed


def test_progress_of_a_round_that_was_preempted_gives_budgets_back() -> None:
    before = FailedRound(KILLED, 10, 10, 0.0)
    assert len(History((before, before, replace(before, furthest=10))).since_progress()) == 3
    later = FailedRound(KILLED, 500, 500, 9.0)
    assert History((before, before, later)).since_progress() == (later,)


# --- a successor


def run_of(*failures: Failure, history: History | None = None, settings: RestartSettings | None = None) -> RunState:
    """A supervisor's life: each round fails at step 10."""
    state = RunState(settings=PolicySettings(restarts=settings or RestartSettings()))
    state, _ = decide(state, RunOpened(history=history or History()), 0.0)
    for number, failure in enumerate(failures):
        for event in (SnapshotsListed(10), WorkerExited(0, 10, failure)):
            state, _ = decide(state, event, float(number))
    return state


def test_a_budget_outlives_the_supervisor() -> None:
    """Preempted and requeued between its failures, a bug is still found to be one."""
    crash = Failure(FailureClass.APPLICATION, "RuntimeError: bug")
    state, history = RunState(), History()
    for _ in range(3):
        state = run_of(crash, history=history)
        history = state.history
        if state.ending is None:
            state, _ = decide(state, StopRequested(StopKind.PREEMPTION, 10.0), 1.0)
    assert state.ending is not None
    assert state.ending.exit_code is ExitCode.CRASH_LOOP


def test_a_successor_knows_how_far_the_run_had_come() -> None:
    """On an older snapshot, its rounds repeat steps and make no progress."""
    history = History((FailedRound(KILLED, 40, 57, 0.0),))
    state, _ = decide(RunState(), RunOpened(history=history), 0.0)
    for event in (SnapshotsListed(None, (50,)),):
        state, _ = decide(state, event, 0.0)
    assert state.furthest == 57


def events_of(steps: Sequence[int]) -> list[WorkerProgressed]:
    return [WorkerProgressed(0, step) for step in steps]


@pytest.mark.parametrize(("lasted", "counted"), [(5.0, 2), (100.0, 1)])
def test_a_round_that_was_up_for_long_enough_has_progressed_by_one_step(lasted: float, counted: int) -> None:
    settings = RestartSettings(success_steps=50, success_seconds=60.0, jitter=0.0)
    state = run_of(KILLED, settings=settings)
    state, _ = decide(state, SnapshotsListed(10), 1.0)
    for event in (*events_of([11]), WorkerExited(0, 11, KILLED)):
        state, _ = decide(state, event, 1.0 + lasted)
    assert len(state.history.since_progress()) == counted
