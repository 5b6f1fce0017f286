"""A group of which a worker was lost: which rank's failure was the root, and whether the run goes on."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings
from resilient.policy.changed import changed
from resilient.policy.decisions import Decision, DiscardMemory, ListSnapshots, RecordIncident
from resilient.policy.events import Incident, LaunchFailed, SnapshotRejected, Tick, Tier, WorkerExited
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.restarts import NOBODYS_FAULT, FailedRound, stop_rule
from resilient.policy.roots import Loss, find_root
from resilient.policy.rules import diverging, undoing
from resilient.policy.rules.pieces import Outcome, flush, is_late, note_stop, noticed, rooted, without
from resilient.policy.state import Phase, RunState
from resilient.policy.treatments import treatment
from resilient.policy.waits import wait_before_relaunch


def launch_failed(state: RunState, event: LaunchFailed, now: float) -> Outcome:
    """No worker of the round could be started."""
    state = noticed(state, Loss(None, state.step, event.failure, now))
    return judge(replace(state, live=frozenset()), now)


def cleared(state: RunState, event: WorkerExited, now: float) -> Outcome:
    """One more worker of a group that is being killed is gone; the last one brings the verdict."""
    state = without(state, event)
    if event.failure is not None:
        loss = loss_of(event, event.failure, now, after_kill=True)
        state = changed(state, losses=(*state.losses, loss))
    return (state, ()) if state.live else judge(state, now)


def wait_for_the_killed(state: RunState, event: Tick, now: float) -> Outcome:
    """Nothing is launched beside a worker that is not gone; but a run that is to stop need not wait for it."""
    return judge(replace(state, live=frozenset()), now) if is_late(state, now) else (state, ())


def loss_of(event: WorkerExited, failure: Failure, now: float, *, after_kill: bool = False) -> Loss:
    """What the exit of a rank says of its failure."""
    return Loss(event.rank, event.step, failure, now if event.at is None else event.at, after_kill)


def judge(state: RunState, now: float) -> Outcome:
    """All workers are gone and the run is not finished: relaunch, wait and relaunch, go back, or give up."""
    if state.reaction is not None:
        return undoing.workers_gone(state, now)
    if state.failure is None:
        if state.stop is not None:
            return flush(state, endings.stopped(state, state.stop))
        if state.regrouping:
            return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)
        # every rank left in good order, but not all of them said that the run is finished
        failure = Failure(FailureClass.UNFINISHED, "some ranks finished and others did not")
        return judge(noticed(state, Loss(None, state.step, failure, now)), now)
    root = find_root(state.losses)
    incident = rooted(state.failure, state.losses, root)
    state = replace(state, failure=incident)
    if incident.failure.failure_class is FailureClass.NUMERIC and diverging.acts(state.settings):
        state, saved = diverging.react_to_crash(state, incident)
        after, decisions = undoing.workers_gone(state, now)
        return after, (*saved, *decisions)
    if state.stop is not None:
        stop, incident = state.stop, replace(incident, remedy="none: the run was asked to stop")
        state, noted = note_stop(state, stop)
        after, decisions = flush(state, endings.stopped(state, stop))
        return after, (RecordIncident(incident), *noted, *decisions)
    failed = _failed_round(state, root, now)
    if incident.failure.failure_class in NOBODYS_FAULT and failed.progressed:
        # SIGTERM to a worker alone, or a node is gone: charged to no budget
        remedy = treatment(incident.failure.failure_class).remedy
        incident = replace(incident, remedy=f"{remedy}; charged to no budget")
        return replace(state, phase=Phase.CHOOSING), (RecordIncident(incident), ListSnapshots())
    state = replace(state, history=state.history.add(failed))
    verdict = stop_rule(state.settings.restarts)(state.history)
    if verdict is not None:
        incident = replace(incident, remedy=f"stop: {verdict.exit_code.name.lower().replace('_', ' ')}")
        after, decisions = flush(state, endings.given_up(state, incident, verdict))
        return after, (RecordIncident(incident, failed), *decisions)
    return _try_again(state, incident, failed, now)


def _failed_round(state: RunState, root: Loss, now: float) -> FailedRound:
    settings = state.settings.restarts
    lasted = 0 < settings.success_seconds <= now - state.launched_at
    return FailedRound(
        root.failure, state.furthest, state.step, now, settings.success_steps, lasted=lasted, rank=root.rank
    )


def _try_again(state: RunState, incident: Incident, failed: FailedRound, now: float) -> Outcome:
    wait = wait_before_relaunch(state.settings.restarts, state.history, f"{state.settings.seed}/{state.round}")
    remedy = treatment(incident.failure.failure_class).remedy
    incident = replace(incident, remedy=f"{remedy} (in {wait:.1f} s)" if wait > 0 else remedy)
    decisions: tuple[Decision, ...] = (RecordIncident(incident, failed),)
    if incident.failure.failure_class is FailureClass.BAD_SNAPSHOT:
        # what other nodes remember of that step is a copy of it
        bad = (SnapshotRejected(state.step, tier, incident.failure.signature) for tier in (Tier.MEMORY, Tier.PEER))
        state, decisions = replace(state, rejected=(*state.rejected, *bad)), (*decisions, DiscardMemory())
    if wait > 0:
        return replace(state, phase=Phase.WAITING, relaunch_at=now + wait), decisions
    return replace(state, phase=Phase.CHOOSING), (*decisions, ListSnapshots())


def wait(state: RunState, event: Tick, now: float) -> Outcome:
    """Time has passed: relaunch when the wait is over."""
    if now < state.relaunch_at:
        return state, ()
    return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)
