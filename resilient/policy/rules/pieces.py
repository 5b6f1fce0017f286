"""Pieces that the rules share."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy.changed import changed
from resilient.policy.decisions import Decision, EndRun, FlushMemory, RecordIncident, SaveLineage
from resilient.policy.events import Event, Incident, StopKind, StopRequested, WorkerExited
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.lineage import Lineage
from resilient.policy.roots import Loss, told_by_others
from resilient.policy.state import Phase, RunState

Outcome = tuple[RunState, tuple[Decision, ...]]


def new_incident(
    state: RunState, failure: Failure, *, rank: int | None, remedy: str, step: int | None = None
) -> tuple[RunState, Incident]:
    """An incident with the next number."""
    number = state.incidents + 1
    at_step = state.step if step is None else step
    incident = Incident(number, max(state.round, 0), rank, at_step, failure, remedy)
    return replace(state, incidents=number), incident


def noticed(state: RunState, loss: Loss) -> RunState:
    """The first failure of a round: it reserves the number of the incident."""
    state, incident = new_incident(state, loss.failure, rank=loss.rank, remedy="", step=loss.step)
    return replace(state, failure=incident, losses=(loss,))


def rooted(incident: Incident, losses: tuple[Loss, ...], root: Loss) -> Incident:
    """The incident that was noticed first, as what all ranks have shown it to be."""
    others = told_by_others(losses, root)
    return replace(incident, rank=root.rank, step=root.step, failure=root.failure, others=others)


def save(state: RunState, lineage: Lineage) -> tuple[RunState, tuple[Decision, ...]]:
    """The lineage is ``lineage`` from now on, and is written down where that is news."""
    if lineage == state.lineage:
        return state, ()
    return replace(state, lineage=lineage), (SaveLineage(lineage),)


def note_stop(state: RunState, event: StopRequested) -> tuple[RunState, tuple[Decision, ...]]:
    """A preemption is an incident, once, though nobody's fault and charged to no budget; a request is none."""
    if event.kind is not StopKind.PREEMPTION or state.stop_noted:
        return state, ()
    failure = Failure(FailureClass.PREEMPTION, "asked to leave")
    state, incident = new_incident(state, failure, rank=None, remedy="save and leave, ask for a requeue")
    return replace(state, stop_noted=True), (RecordIncident(incident),)


def without(state: RunState, event: WorkerExited) -> RunState:
    """The group without a worker that has exited."""
    finished = state.finished | {event.rank} if event.finished else state.finished
    steps = {**state.steps, event.rank: event.step}
    step = max(state.step, min(steps.values()))
    return changed(state, live=state.live - {event.rank}, finished=finished, step=step, steps=steps)


def flush(state: RunState, ending: EndRun) -> Outcome:
    """Make what is in memory durable, then end like this."""
    return replace(state, phase=Phase.FLUSHING, ending=ending), (FlushMemory(flush_by(state)),)


def flush_by(state: RunState) -> float | None:
    """When the flush has to be over, in seconds on the clock of all events; None for no such time."""
    if state.stop is None or state.stop.patient:
        return None
    return state.stop_asked_at + state.settings.stop.flush_fraction * state.stop.grace


def is_late(state: RunState, now: float) -> bool:
    """Whether a run that was asked to stop has waited long enough for workers that were killed.

    SIGKILL does not end what waits in the kernel for a device or a disk. It does not take another step either, so what
    is in memory can be made durable without it, in half of the time that is there for that.
    """
    settings = state.settings.stop
    if state.stop is None:
        return False
    return now - state.stop_asked_at > (settings.term_fraction + settings.flush_fraction) / 2 * state.stop.grace


def end(state: RunState, ending: EndRun) -> Outcome:
    """End now."""
    return replace(state, phase=Phase.ENDED, ending=ending), (ending,)


def ignore(state: RunState, event: Event, now: float) -> Outcome:
    """An event that changes nothing in this phase."""
    return state, ()
