"""Choosing what to resume from, and launching a round from it."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings, watching
from resilient.policy.decisions import AbandonRestore, LaunchRound, ListSnapshots, RecordIncident, RestoreSnapshot
from resilient.policy.events import (
    RestoreFailed,
    RunOpened,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    Tick,
    Tier,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangWatch
from resilient.policy.restore import Source, choose_source
from resilient.policy.rules.pieces import Outcome, end, new_incident
from resilient.policy.state import Phase, RunState
from resilient.policy.stragglers import StragglerWatch

_RESTORE_TRIES = 3


def open_run(state: RunState, event: RunOpened, now: float) -> Outcome:
    """The supervisor owns the run: take over what is known of it, and look for snapshots."""
    state = replace(
        state,
        round=event.last_round,
        incidents=event.incidents,
        history=event.history,
        furthest=event.history.furthest,
        learned=event.durations,
    )
    if not event.takeover:
        return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)
    lost = Failure(FailureClass.SUPERVISOR_LOST, "the supervisor before this one ended without closing the run")
    state, incident = new_incident(state, lost, rank=None, remedy="take over", step=event.step)
    return replace(state, phase=Phase.CHOOSING), (RecordIncident(incident), ListSnapshots())


def choose(state: RunState, event: SnapshotsListed, now: float) -> Outcome:
    """Resume from the nearest newest snapshot, or afresh where there never was one; never where there were some."""
    source = choose_source(event, [Source(rejected.step, rejected.tier) for rejected in state.rejected])
    if source is None and event.remote_problem is not None:
        return end(state, endings.remote_unknown(event.remote_problem))
    if source is None and (state.rejected or event.quarantined):
        return end(state, endings.none_loadable(state, event))
    if source is None:
        return launch(state, LaunchRound(state.round + 1), now)
    if source.tier is Tier.MEMORY:
        return launch(state, LaunchRound(state.round + 1, source.step, Tier.MEMORY), now)
    restore = RestoreSnapshot(source.step, source.tier)
    return replace(state, phase=Phase.RESTORING, restoring=restore, restoring_since=now), (restore,)


def restored(state: RunState, event: SnapshotRestored, now: float) -> Outcome:
    """A durable snapshot lies in memory, verified."""
    # What was rejected on disk is set aside. What is found there of this step from now on is another copy.
    rejected = tuple(old for old in state.rejected if (old.step, old.tier) != (event.step, Tier.LOCAL))
    state = replace(state, rejected=rejected)
    state = replace(state, learned=watching.learned_by_restoring(state, event, now))
    return launch(state, LaunchRound(state.round + 1, event.step, event.tier), now)


def watch_restore(state: RunState, event: Tick, now: float) -> Outcome:
    """Time has passed: whoever reads the snapshot may not answer any more."""
    late = watching.late_restore(state, now)
    if late is None:
        return state, ()
    after, decisions = restore_failed(state, late, now)
    return after, (AbandonRestore(late.step, late.tier), *decisions)


def rejected(state: RunState, event: SnapshotRejected, now: float) -> Outcome:
    """A snapshot is corrupt: choose anew."""
    failure = Failure(FailureClass.BAD_SNAPSHOT, event.reason)
    state, incident = new_incident(
        state, failure, rank=None, step=event.step, remedy="set it aside, resume from another copy or an older one"
    )
    after = replace(state, phase=Phase.CHOOSING, rejected=(*state.rejected, event))
    return after, (RecordIncident(incident), ListSnapshots())


def restore_failed(state: RunState, event: RestoreFailed, now: float) -> Outcome:
    """Try again a few times: the snapshot itself may be sound, and an older one would fail in the same way."""
    if state.restore_failures + 1 < _RESTORE_TRIES:
        after = replace(state, phase=Phase.CHOOSING, restore_failures=state.restore_failures + 1)
        return after, (ListSnapshots(),)
    return end(state, endings.not_restored(event, _RESTORE_TRIES))


def launch(state: RunState, launch: LaunchRound, now: float) -> Outcome:
    """Start a round with fresh bookkeeping of all ranks."""
    ranks = range(state.settings.ranks)
    learned = state.durations
    after = replace(
        state,
        phase=Phase.STARTING,
        round=launch.round,
        step=launch.step or 0,
        furthest=max(state.furthest, state.step, launch.step or 0),
        live=frozenset(ranks),
        finished=frozenset(),
        steps=dict.fromkeys(ranks, launch.step or 0),
        watches={rank: HangWatch.knowing(learned, now) for rank in ranks},
        learned=learned,
        stragglers=StragglerWatch(),
        dumping=None,
        launched_at=now,
        failure=None,
        losses=(),
        restore_failures=0,
    )
    return after, (launch,)
