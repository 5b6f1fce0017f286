"""Training that goes wrong, a person who wants to go back, and what is known of the snapshots meanwhile.

A rollback is written down at once, before its workers are killed: whatever ends the supervisor from then on, its
successor finds the rollback pending and carries it out. How it goes on is in :mod:`resilient.policy.rules.undoing`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from resilient.policy.decisions import (
    AbandonRestore,
    Decision,
    DiscardAfter,
    KillWorkers,
    ListSnapshots,
    RecordIncident,
    RefuseRollback,
    ReportFinding,
)
from resilient.policy.divergence import Divergence, DivergenceKind, DivergenceSettings
from resilient.policy.divergence.ladder import GiveUp, RollBack, advanced, respond, soundest
from resilient.policy.events import Event, Incident, MetricsJudged, RollbackRequested, SkipResolved, SnapshotDurable
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.lineage import Lineage, Rollback, RollbackCause
from resilient.policy.roots import Loss
from resilient.policy.rules.pieces import Outcome, new_incident, noticed, save
from resilient.policy.state import Phase, PolicySettings, Reaction, RunState


def acts(settings: PolicySettings) -> bool:
    """Whether a divergence is answered with a rollback."""
    return settings.rolls_back and settings.divergence.enabled and settings.divergence.respond


def judged(state: RunState, event: MetricsJudged, now: float) -> Outcome:
    """What the detectors made of a step: grade the snapshots, and go back when training has diverged."""
    if state.lineage.pending or state.reaction is not None:
        return state, ()  # of steps that are discarded
    settings, told = state.settings.divergence, tuple(map(ReportFinding, event.findings))
    known = state.lineage.known.followed(settings, event.step, event.findings, event.open_onset)
    lineage = replace(state.lineage, known=known)
    diverged = [found for found in event.findings if isinstance(found, Divergence)]
    if not diverged:
        # while something is wrong it may still belong to the episode
        sound = event.step if event.open_onset is None else min(event.step, event.open_onset - 1)
        state, saved = save(state, replace(lineage, ladder=advanced(lineage.ladder, sound)))
        return state, (*told, *saved)
    found = min(diverged, key=lambda found: found.onset_step)
    if not acts(state.settings):
        state, saved = save(state, lineage)
        state, noted = _look_on(state, found)
        return state, (*told, *saved, *noted)
    reached = max(found.step, *state.steps.values())
    state, saved = _react(_noted(state, found, now), found, lineage, reached)
    after, killed = _clear(state, "training has diverged")
    return after, (*told, *saved, *killed)


def _headline(found: Divergence) -> str:
    """What, since when, and the first of the sentences that say why; those of a value that is not finite say it all."""
    what = f"{found.kind.value} of {found.metric} since step {found.onset_step}"
    if not found.evidence:
        return what
    return found.evidence[0] if found.kind is DivergenceKind.NONFINITE else f"{what}: {found.evidence[0]}"


def _failure_of(found: Divergence) -> Failure:
    signature = f"{found.kind.value} of {found.metric}"
    return Failure(FailureClass.NUMERIC, signature, _headline(found), found.evidence)


def _noted(state: RunState, found: Divergence, now: float) -> RunState:
    """The divergence is what is wrong with the round, also where a rank was lost a moment before."""
    if state.failure is None:
        return noticed(state, Loss(None, found.step, _failure_of(found), now))
    return replace(state, failure=replace(state.failure, rank=None, step=found.step, failure=_failure_of(found)))


def _look_on(state: RunState, found: Divergence) -> tuple[RunState, tuple[Decision, ...]]:
    """Nothing is done about it: an incident, but not one for each time that a metric comes and goes.

    Where a failure waits for its incident, or stacks are written under the next number, it is told and no more.
    """
    last = state.watched
    is_old = last is not None and found.step <= last + state.settings.divergence.ladder.probation
    if is_old or state.failure is not None or state.dumping is not None:
        return state, ()
    off = "divergence.respond is off" if state.settings.rolls_back else "the script does not attach"
    state, incident = new_incident(state, _failure_of(found), rank=None, remedy=f"none: {off}", step=found.step)
    return replace(state, watched=found.step), (RecordIncident(incident),)


def react_to_crash(state: RunState, incident: Incident) -> tuple[RunState, tuple[Decision, ...]]:
    """A script that has met a number that is not finite, and does not go on: a divergence that it found itself."""
    step, settings = incident.step + 1, state.settings.divergence
    place = (DivergenceKind.NONFINITE, "the script", step, step, step, math.nan, 0.0, 0.0)
    found = Divergence(*place, (incident.failure.headline,))
    known = state.lineage.known.alarmed(step, settings.margin)
    return _react(state, found, replace(state.lineage, known=known), max(state.steps.values()))


def _react(state: RunState, found: Divergence, lineage: Lineage, reached: int) -> tuple[RunState, tuple[Decision, ...]]:
    """The next rung of the ladder, written down.

    A run that is given up is rolled back as well, for whoever starts it again: it must not go on from what diverged.
    """
    settings = _settings(state, lineage)
    ladder, response = respond(settings, lineage.ladder, lineage.known, found)
    target, skip, given_up = _read(response)
    if target is None:
        target = soundest(settings, lineage.known, found)
    after = replace(lineage, ladder=ladder)
    if target is not None:
        lr_factor = lineage.lr_factor * (ladder.lr_factor / lineage.ladder.lr_factor)
        rollback = Rollback(target, reached, state.round, skip, lr_factor=lr_factor, reason=response.reason)
        after = after.rolled_back(rollback)
    state = replace(state, reaction=Reaction(found, lineage, given_up))
    return save(state, after)


def _settings(state: RunState, lineage: Lineage) -> DivergenceSettings:
    """A fork does not begin anew: what it began with is a snapshot, and it has none of the steps before."""
    settings = state.settings.divergence
    if lineage.forked_from is None:
        return settings
    return replace(settings, ladder=replace(settings.ladder, restart_within=0))


def _read(response: RollBack | GiveUp) -> tuple[int | None, tuple[int, int] | None, str]:
    if isinstance(response, RollBack):
        return response.target, response.skip, ""
    return None, None, response.reason


def _clear(state: RunState, reason: str) -> Outcome:
    """Nobody of the group is of use any more."""
    if state.phase is Phase.CLEARING:  # they are being killed
        return state, ()
    return replace(state, phase=Phase.CLEARING, dumping=None), (KillWorkers(reason),)


# --- a person


def requested(state: RunState, event: RollbackRequested, now: float) -> Outcome:
    """A person wants the run to go on from an earlier step, with whatever the group is at."""
    target = _target_of(state, event)
    if isinstance(target, str):
        return state, (RefuseRollback(event, target),)
    lineage = state.lineage
    why = f"a person asked for it ({event.request})" if event.request else "a person asked for it"
    reached = max(target, state.step, *state.steps.values())
    lr_factor = lineage.lr_factor * event.lr_factor
    rollback = Rollback(target, reached, state.round, event.skip, None, lr_factor, RollbackCause.REQUEST, why)
    state, saved = save(state, lineage.rolled_back(rollback))
    if state.live:
        after, killed = _clear(replace(state, reaction=Reaction(None, lineage)), f"rolling back {rollback.told}")
        return after, (*saved, *killed)
    if state.phase is not Phase.RESTORING:  # what could be resumed from is asked for, or will be
        return state, (*saved, DiscardAfter(target))
    assert state.restoring is not None  # noqa: S101  RESTORING is only entered with one
    abandon = AbandonRestore(state.restoring.step, state.restoring.tier)
    return replace(state, phase=Phase.CHOOSING), (abandon, *saved, DiscardAfter(target), ListSnapshots())


def refuse(state: RunState, event: RollbackRequested, now: float) -> Outcome:
    """The run is not open yet, or ends: nothing goes on from anywhere."""
    why = _under_way(state) if state.reaction is not None else "the run is not up: ask again when it is not"
    return state, (RefuseRollback(event, why),)


def _under_way(state: RunState) -> str:
    if not state.lineage.pending:
        return "the run is being stopped, for it has diverged and no snapshot is sound"
    return f"a rollback {state.lineage.rollbacks[-1].told} is under way: ask again when the next round has begun"


def _target_of(state: RunState, event: RollbackRequested) -> int | str:
    """The step to go on from, or why there is none."""
    known = state.lineage.known
    if not state.settings.rolls_back:
        return "the script does not attach, so what it goes on from is its own choice"
    if state.lineage.pending or state.reaction is not None:
        return _under_way(state)
    target = known.newest_good() if event.target is None else event.target
    is_fork = state.lineage.forked_from is not None  # its beginning is one of its snapshots
    steps = [*([] if is_fork else [0]), *sorted(item.step for item in known.snapshots)]
    if target is None:
        return f"no snapshot is known to be good yet: name one of {steps}"
    if target not in steps:
        return f"there is no snapshot of step {target}: name one of {steps}"
    if event.skip is not None and not target < event.skip[0] <= event.skip[1]:
        return f"data can be left out from step {target + 1} on, not from {event.skip[0]} to {event.skip[1]}"
    if not 0 < event.lr_factor < math.inf:
        return f"the learning rate cannot be multiplied by {event.lr_factor:g}"
    return target


# --- what becomes known


def durable(state: RunState, event: SnapshotDurable, now: float) -> Outcome:
    """A snapshot has become durable, and others may be gone."""
    lineage, known = state.lineage, state.lineage.known
    if lineage.target is None or event.step <= lineage.target:
        known = known.taken(event.step, state.settings.divergence.margin)
    known = known.only({item.step for item in known.snapshots} - set(event.removed))
    return save(state, replace(lineage, known=known))


def resolved(state: RunState, event: SkipResolved, now: float) -> Outcome:
    """A worker has found out which data rollbacks leave out."""
    if state.lineage.pending:
        return state, ()  # said of the one before it
    return save(state, state.lineage.resolved(event.skips))


def late(state: RunState, event: Event, now: float) -> Outcome:
    """What is said of a group that is gone: the next one is judged by what it does itself."""
    return state, ()
