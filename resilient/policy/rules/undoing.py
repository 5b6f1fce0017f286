"""A rollback whose workers are gone: was it the hardware, and what is done then.

The steps before a divergence may be run again first, from the snapshot that the run will go on from (REPLAYING). Where
the hardware had computed them wrong, nothing is wrong with the data: none is left out, and the ladder has not been
used. In any case the lineage is written down before anything is discarded, and the discarded state is gone before what
is in memory is made durable.
"""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings
from resilient.policy.decisions import (
    AbandonReplay,
    Decision,
    DiscardAfter,
    DistrustNode,
    ListSnapshots,
    RecordIncident,
    ReplayWindow,
    SaveLineage,
)
from resilient.policy.events import Incident, ReplayEnded, StopRequested, Tick
from resilient.policy.hang import STEP
from resilient.policy.lineage import Lineage, Rollback, RollbackCause
from resilient.policy.roots import Loss, find_root, told_by_others
from resilient.policy.rules.pieces import Outcome, flush, note_stop, rooted
from resilient.policy.state import Phase, Reaction, RunState
from resilient.policy.verdict import Verdict, VerdictKind

_REPLAY_START = 30.0  # seconds until the first step of a replay is done: a process, torch, the snapshot
_REPLAY_ALLOWANCE = 2.0  # seconds


def workers_gone(state: RunState, now: float) -> Outcome:
    """No worker is left: ask the hardware first, where that is worth its time, or go on at once."""
    window = _window(state, now)
    if window is None:
        return _conclude(state, None)
    assert state.reaction is not None  # noqa: S101  there is no window without one
    reaction = replace(state.reaction, replay_by=window.by)
    return replace(state, phase=Phase.REPLAYING, reaction=reaction), (window,)


def _window(state: RunState, now: float) -> ReplayWindow | None:
    """What is to be run again; None where nothing is."""
    reaction, settings, target = state.reaction, state.settings.divergence.replay, state.lineage.target
    if reaction is None or reaction.found is None or reaction.given_up or target is None or state.failure is None:
        return None
    last = min(reaction.found.alarm_step, state.lineage.rollbacks[-1].reached)
    needed = _REPLAY_START + (last - target) * state.durations.get(STEP, 0.0)
    if state.stop is not None or not settings.enabled or last <= target or needed > settings.max_seconds:
        return None
    first = min(reaction.found.onset_step, last)
    return ReplayWindow(state.failure.number, target, first, last, now + settings.max_seconds)


def replay_ended(state: RunState, event: ReplayEnded, now: float) -> Outcome:
    """The steps were run again, or could not be."""
    return _conclude(state, event.verdict)


def watch_replay(state: RunState, event: Tick, now: float) -> Outcome:
    """Who runs them again keeps to the time; this is for when it does not answer at all."""
    reaction = state.reaction
    assert reaction is not None  # noqa: S101  REPLAYING is only entered with a time
    assert reaction.replay_by is not None  # noqa: S101
    if now <= reaction.replay_by + _REPLAY_ALLOWANCE:
        return state, ()
    after, decisions = _conclude(state, Verdict(VerdictKind.INCONCLUSIVE, "the replay did not answer in time"))
    return after, (AbandonReplay(), *decisions)


def stop_while_replaying(state: RunState, event: StopRequested, now: float) -> Outcome:
    """There is no time to find out. The rollback is written down, and the next start carries it out."""
    state = replace(state, stop=event, stop_asked_at=now)
    after, decisions = _conclude(state, Verdict(VerdictKind.INCONCLUSIVE, "the run was asked to stop meanwhile"))
    return after, (AbandonReplay(), *decisions)


def _conclude(state: RunState, verdict: Verdict | None) -> Outcome:
    """Act on what was decided, with what the replay has shown."""
    reaction = state.reaction
    assert reaction is not None  # noqa: S101  asked where there is one
    hardware = _hardware(reaction.before, verdict)
    lineage = _sound(state.lineage, reaction.before, hardware) if hardware is not None else state.lineage
    lineage = _reached(lineage, max(state.steps.values()))
    incident = _incident(state, lineage, reaction, verdict)
    state = replace(state, lineage=lineage, reaction=None, failure=incident)
    decisions: list[Decision] = [SaveLineage(lineage)] if lineage.pending else []
    if incident is not None:
        decisions.append(RecordIncident(incident))
    if lineage.target is not None:
        decisions.append(DiscardAfter(lineage.target))
    if incident is not None and hardware is not None and hardware.kind is VerdictKind.PERSISTENT_HARDWARE:
        after, last = flush(state, endings.untrusted(state, incident, hardware))
        return after, (*decisions, DistrustNode(hardware.reason, incident.number), *last)
    if incident is not None and reaction.given_up:
        after, last = flush(state, endings.diverged(state, incident, reaction.given_up))
        return after, (*decisions, *last)
    stop = state.stop
    if stop is None:
        return replace(state, phase=Phase.CHOOSING), (*decisions, ListSnapshots())
    state, noted = note_stop(state, stop)
    after, last = flush(state, endings.stopped(state, stop))
    return after, (*decisions, *noted, *last)


def _hardware(before: Lineage, verdict: Verdict | None) -> Verdict | None:
    """The verdict, if it is one on the hardware. What errs a second time errs for good."""
    if verdict is None or verdict.kind not in (VerdictKind.TRANSIENT_HARDWARE, VerdictKind.PERSISTENT_HARDWARE):
        return None
    if any(rollback.cause is RollbackCause.HARDWARE for rollback in before.rollbacks):
        return replace(verdict, kind=VerdictKind.PERSISTENT_HARDWARE)
    return verdict


def _sound(decided: Lineage, before: Lineage, verdict: Verdict) -> Lineage:
    """As far back as was decided, with all data and the learning rate as it was. Only the budget knows of it."""
    last = decided.rollbacks[-1]
    ladder = replace(before.ladder, rollbacks=before.ladder.rollbacks + 1)
    rollback = Rollback(
        last.target, last.reached, last.round, None, None, before.lr_factor, RollbackCause.HARDWARE, verdict.reason
    )
    return replace(before, ladder=ladder).rolled_back(rollback)


def _reached(lineage: Lineage, step: int) -> Lineage:
    """The workers came farther until they were gone."""
    if not lineage.pending or step <= lineage.rollbacks[-1].reached:
        return lineage
    return replace(lineage, rollbacks=(*lineage.rollbacks[:-1], replace(lineage.rollbacks[-1], reached=step)))


def _incident(state: RunState, lineage: Lineage, reaction: Reaction, verdict: Verdict | None) -> Incident | None:
    """What is written down. That a person asks is no incident; a failure that came before it is one."""
    incident = state.failure
    if incident is None:
        return None
    back = f"roll back {lineage.rollbacks[-1].told}" if lineage.pending else ""
    if reaction.found is None:
        return replace(rooted(incident, state.losses, find_root(state.losses)), remedy=f"{back}, as a person asked")
    by_itself = Loss(incident.rank, incident.step, incident.failure, 0.0)
    incident = replace(incident, others=told_by_others(state.losses, by_itself))
    incident = replace(incident, remedy=f"stop: {reaction.given_up}" if reaction.given_up else back)
    if verdict is None:
        return incident
    told = (*incident.failure.evidence, f"run again: {verdict.kind.value}: {verdict.reason}", *verdict.evidence)
    return replace(incident, failure=replace(incident.failure, evidence=told))
