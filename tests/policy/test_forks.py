"""A run that began with another run's snapshot has no beginning but that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.errors import ExitCode
from resilient.policy.decisions import Decision, EndRun, LaunchRound, RefuseRollback, SaveLineage
from resilient.policy.divergence import Divergence, DivergenceKind, DivergenceSettings, ReplaySettings
from resilient.policy.divergence.known_good import Grade, Graded, KnownGood
from resilient.policy.events import (
    Event,
    FlushEnded,
    MetricsJudged,
    RollbackRequested,
    RunOpened,
    SnapshotRestored,
    SnapshotsListed,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.lineage import Fork, Lineage, Rollback, RollbackCause
from resilient.policy.machine import decide
from resilient.policy.state import Phase, PolicySettings, RunState

FORKED = Fork("other", 100, "0" * 32)
KILLED = Failure(FailureClass.KILLED, "SIGKILL")


def up(lineage: Lineage) -> RunState:
    """A round of one rank that has done five steps, from step 100 on or from the beginning."""
    step = 0 if lineage.forked_from is None else lineage.forked_from.step
    restored: list[Event] = [SnapshotRestored(step)] if step else []
    listed = SnapshotsListed(durable_steps=(step,) if step else ())
    events: list[Event] = [RunOpened(lineage=lineage), listed, *restored, WorkerProgressed(0, step + 5)]
    state = RunState(settings=PolicySettings(divergence=DivergenceSettings(replay=ReplaySettings(enabled=False))))
    for event in events:
        state = decide(state, event, 1.0)[0]
    assert state.phase is Phase.RUNNING
    return state


def play(state: RunState, *events: Event) -> tuple[RunState, list[Decision]]:
    taken: list[Decision] = []
    for event in events:
        state, decisions = decide(state, event, 2.0)
        taken += decisions
    return state, taken


def diverged(state: RunState) -> tuple[RunState, list[Decision]]:
    """At once, so that no snapshot is older than the onset by the margin."""
    step = state.steps[0]
    found = Divergence(DivergenceKind.NONFINITE, "loss", step, step, step, float("nan"), 1.0, 0.1)
    return play(state, MetricsJudged(step, (found,), step), WorkerExited(0, step, KILLED))


def test_a_run_that_diverges_at_once_begins_anew_and_a_fork_does_not() -> None:
    state, taken = diverged(up(Lineage()))
    assert [one.lineage.target for one in taken if isinstance(one, SaveLineage)][-1] == 0
    _, taken = play(state, SnapshotsListed())
    assert any(isinstance(one, LaunchRound) and one.step is None for one in taken)

    known = KnownGood((Graded(100, Grade.TAKEN, 100),))
    state, taken = diverged(up(Lineage(forked_from=FORKED, known=known)))
    assert all(one.lineage.target != 0 for one in taken if isinstance(one, SaveLineage))
    _, taken = play(state, FlushEnded(100, None))
    assert [one.exit_code for one in taken if isinstance(one, EndRun)] == [ExitCode.DIVERGED]


@pytest.mark.parametrize(("fork", "refused"), [(None, False), (FORKED, True)])
def test_nobody_rolls_a_fork_back_behind_what_it_began_with(fork: Fork | None, refused: bool) -> None:
    _, taken = play(up(Lineage(forked_from=fork)), RollbackRequested(0, request="one"))
    assert any(isinstance(one, RefuseRollback) for one in taken) is refused


def test_a_rollback_that_was_asked_for_says_so() -> None:
    state, _ = play(up(Lineage(forked_from=FORKED)), RollbackRequested(100, request="0a1b2c3d"))
    (rollback,) = state.lineage.rollbacks
    assert (rollback.cause, rollback.reason) == (RollbackCause.REQUEST, "a person asked for it (0a1b2c3d)")


def test_a_fork_whose_snapshot_is_lost_does_not_begin_anew() -> None:
    lineage = Lineage(forked_from=FORKED).rolled_back(replace(Rollback(100, 105, 0), reason="x"))
    state, taken = play(RunState(), RunOpened(lineage=lineage), SnapshotsListed())
    assert not any(isinstance(one, LaunchRound) for one in taken)
    assert state.phase in {Phase.FLUSHING, Phase.ENDED}
