"""Choosing what to resume from, and launching a round from it."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings, watching
from resilient.policy.decisions import (
    AbandonRestore,
    Decision,
    DiscardAfter,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    RestoreSnapshot,
)
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
from resilient.policy.nodes import Group
from resilient.policy.restore import Source, choose_source, durable_sources
from resilient.policy.rules.pieces import Outcome, end, new_incident, save
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
        lineage=event.lineage,
        group=Group(event.group, cold=not event.takeover),
    )
    target = event.lineage.target
    # a rollback that was written down, and perhaps no more than that
    decisions: tuple[Decision, ...] = (ListSnapshots(),) if target is None else (DiscardAfter(target), ListSnapshots())
    if not event.takeover:
        return replace(state, phase=Phase.CHOOSING), decisions
    lost = Failure(FailureClass.SUPERVISOR_LOST, "the supervisor before this one ended without closing the run")
    state, incident = new_incident(state, lost, rank=None, remedy="take over", step=event.step)
    return replace(state, phase=Phase.CHOOSING), (RecordIncident(incident), *decisions)


def choose(state: RunState, event: SnapshotsListed, now: float) -> Outcome:
    """Resume from the nearest newest snapshot, or afresh where there never was one; never where there were some. After
    a rollback from its target, or from before it.
    """
    state = replace(state, formed_ranks=event.ranks)
    source = _source(state, event)
    if source is None:
        return _without_a_source(state, event, now)
    state, back = _go_back(_knowing(state, event, source), source.step)
    if source.tier is Tier.MEMORY:
        after, launched = launch(state, LaunchRound(state.round + 1, source.step, Tier.MEMORY), now)
        return after, (*back, *launched)
    restore = RestoreSnapshot(source.step, source.tier)
    return replace(state, phase=Phase.RESTORING, restoring=restore, restoring_since=now), (*back, restore)


def _source(state: RunState, event: SnapshotsListed) -> Source | None:
    """Where a rollback's target cannot be had, a good one before it comes before one that is only newer."""
    rejected, target = _rejected(state), state.lineage.target
    source = choose_source(event, rejected, target)
    if target is None or source is None or source.step == target:
        return source
    good = state.lineage.known.newest_good(source.step)
    return (None if good is None else choose_source(event, rejected, good)) or source


def _rejected(state: RunState) -> list[Source]:
    return [Source(rejected.step, rejected.tier) for rejected in state.rejected]


def _without_a_source(state: RunState, event: SnapshotsListed, now: float) -> Outcome:
    lineage = state.lineage
    last = lineage.rollbacks[-1] if lineage.rollbacks else None
    if last is not None and last.target == 0 and not lineage.known.snapshots:
        return launch(state, LaunchRound(state.round + 1), now)  # its beginning is what it was to go on from
    if event.remote_problem is not None:
        return end(state, endings.remote_unknown(event.remote_problem))
    if last is not None and lineage.pending:
        is_fork = lineage.forked_from is not None  # its beginning is a snapshot too
        if is_fork or last.reached > state.settings.divergence.ladder.restart_within:
            return end(state, endings.target_lost(last))
        state, back = _go_back(state, 0)
        after, launched = launch(state, LaunchRound(state.round + 1), now)
        return after, (*back, *launched)
    if state.rejected or event.quarantined:
        return end(state, endings.none_loadable(state, event))
    return launch(state, LaunchRound(state.round + 1), now)


def _knowing(state: RunState, event: SnapshotsListed, source: Source) -> RunState:
    """What is known of the snapshots, of those alone that are there. Not written down: it is listed at each start."""
    rejected, lineage = _rejected(state), state.lineage
    there = {copy.step for copy in durable_sources(event) if copy not in rejected}
    on_it = {step for step in there if lineage.target is None or step <= lineage.target}
    known = lineage.known if event.remote_problem is not None else lineage.known.only(on_it)
    return replace(state, lineage=replace(lineage, known=known.found(on_it, source.step)))


def _go_back(state: RunState, step: int) -> tuple[RunState, tuple[Decision, ...]]:
    """Farther than was decided, if the target of a rollback cannot be had."""
    lineage = state.lineage.retargeted(step)
    if lineage.target == state.lineage.target:
        return state, ()
    state, saved = save(state, lineage)
    return state, (*saved, DiscardAfter(step))


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
    if event.tier is Tier.PEER:  # of what other nodes remember, there is an older copy that does not need them
        lost = SnapshotRejected(event.step, event.tier, event.problem)
        after = replace(state, phase=Phase.CHOOSING, restore_failures=0, rejected=(*state.rejected, lost))
        return after, (ListSnapshots(),)
    return end(state, endings.not_restored(event, _RESTORE_TRIES))


def launch(state: RunState, launch: LaunchRound, now: float) -> Outcome:
    """Start a round with fresh bookkeeping of all ranks."""
    ranks = range(state.ranks)
    learned, begins = state.durations, launch.step or 0
    # What a rollback discards is no progress that a later round would have to surpass.
    furthest = begins if state.lineage.pending else max(state.furthest, state.step, begins)
    state, saved = save(state, state.lineage.launched())
    after = replace(
        state,
        phase=Phase.STARTING,
        round=launch.round,
        step=begins,
        furthest=furthest,
        live=frozenset(ranks),
        finished=frozenset(),
        steps=dict.fromkeys(ranks, begins),
        watches={rank: HangWatch.knowing(learned, now) for rank in ranks},
        learned=learned,
        stragglers=StragglerWatch(),
        dumping=None,
        launched_at=now,
        failure=None,
        losses=(),
        restore_failures=0,
        regrouping=False,
    )
    return after, (launch, *saved)
