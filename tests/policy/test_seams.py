"""Where the rules of the state machine meet: messages of several lines, and workers that nothing can end."""

from __future__ import annotations

from dataclasses import replace

from resilient.errors import ExitCode
from resilient.policy.decisions import Decision, EndRun, FlushMemory, KillWorkers, RecordIncident
from resilient.policy.events import (
    Event,
    FlushEnded,
    RunOpened,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.machine import decide
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import Phase, PolicySettings, RunState

CRASH = Failure(FailureClass.CRASH, "SIGSEGV")
KILLED = Failure(FailureClass.KILLED, "SIGKILL")
PREEMPTED = StopRequested(StopKind.PREEMPTION, grace=100.0)
LONG = Failure(FailureClass.APPLICATION, "ValueError: bad", "ValueError: bad\nin the second line\nand the third")


def up(ranks: int = 2, restarts: RestartSettings | None = None) -> RunState:
    """A round whose ranks have all done five steps."""
    state = RunState(settings=PolicySettings(ranks, restarts or RestartSettings()))
    events: list[Event] = [RunOpened(), SnapshotsListed(), *(WorkerProgressed(rank, 5) for rank in range(ranks))]
    for event in events:
        state = decide(state, event, 1.0)[0]
    assert state.phase is Phase.RUNNING
    return state


def play(state: RunState, *events: tuple[Event, float]) -> tuple[RunState, list[Decision]]:
    taken: list[Decision] = []
    for event, now in events:
        state, decisions = decide(state, event, now)
        taken += decisions
    return state, taken


def test_why_a_group_is_killed_is_said_in_one_line() -> None:
    _, taken = play(up(), (WorkerExited(1, 5, LONG), 2.0))
    assert taken == [KillWorkers("rank 1 is lost: ValueError: bad")]


def test_what_other_ranks_failed_with_is_told_in_one_line_each() -> None:
    _, taken = play(up(), (WorkerExited(1, 5, CRASH), 2.0), (WorkerExited(0, 5, LONG), 3.0))
    (recorded,) = [one for one in taken if isinstance(one, RecordIncident)]
    assert recorded.incident.others == ("rank 0 after step 5: application error: ValueError: bad",)


def test_a_diagnosis_is_one_paragraph_however_long_the_message() -> None:
    once = RestartSettings(crash_loop=1)
    declared = replace(LONG, failure_class=FailureClass.DECLARED)
    for failure, settings in ((LONG, once), (declared, RestartSettings())):
        _, taken = play(up(1, restarts=settings), (WorkerExited(0, 5, failure), 2.0), (FlushEnded(5), 3.0))
        (ending,) = [one for one in taken if isinstance(one, EndRun)]
        assert "\n" not in ending.diagnosis
        assert "ValueError: bad" in ending.diagnosis


def test_a_worker_that_sigkill_does_not_end_does_not_keep_a_preempted_run_from_the_disk() -> None:
    state, _ = play(up(1), (PREEMPTED, 10.0), (Tick(), 61.0), (Tick(), 71.0))
    assert state.escalation == 2
    assert decide(state, Tick(), 75.0)[0].phase is Phase.STOPPING
    state, taken = play(state, (Tick(), 90.0))
    assert state.phase is Phase.FLUSHING
    assert taken == [FlushMemory(105.0)]
    # It does end after all; nobody cares any more.
    state, taken = play(state, (WorkerExited(0, 5, KILLED), 91.0), (FlushEnded(5), 92.0))
    assert isinstance(taken[-1], EndRun)
    assert taken[-1].exit_code is ExitCode.REQUEUE


def test_nor_one_of_a_group_that_was_killed_before_the_preemption() -> None:
    state, _ = play(up(), (WorkerExited(1, 5, CRASH), 2.0), (PREEMPTED, 10.0))
    assert decide(state, Tick(), 75.0)[0].phase is Phase.CLEARING
    state, taken = play(state, (Tick(), 90.0))
    assert state.phase is Phase.FLUSHING
    numbers = [one.incident.number for one in taken if isinstance(one, RecordIncident)]
    assert numbers == [1, 2]
    assert taken[-1] == FlushMemory(105.0)


def test_a_group_that_is_not_gone_is_waited_for_as_long_as_nobody_asks() -> None:
    state, _ = play(up(), (WorkerExited(1, 5, CRASH), 2.0), (Tick(), 1e6))
    assert state.phase is Phase.CLEARING
