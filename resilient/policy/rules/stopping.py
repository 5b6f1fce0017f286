"""Bringing a run to a stop: ask, signal, kill, and make durable what there is."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings
from resilient.policy.decisions import AskWorkers, FlushMemory, KillWorkers, SignalWorkers
from resilient.policy.events import FlushEnded, GraceKnown, StopRequested, Tick, WorkerExited
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.rules.pieces import Outcome, end, flush, flush_by, is_late, note_stop, without
from resilient.policy.state import Phase, RunState


def ask_to_stop(state: RunState, event: StopRequested, now: float) -> Outcome:
    """Ask on the board for a last snapshot, at the next step boundary."""
    state, noted = note_stop(state, event)
    after = replace(state, phase=Phase.STOPPING, stop=event, stop_asked_at=now, escalation=0)
    gone_by = now + state.settings.stop.term_fraction * event.grace
    return after, (AskWorkers(event.kind, gone_by, flush_by(after)), *noted)


def stop_while_clearing(state: RunState, event: StopRequested, now: float) -> Outcome:
    """The incident of the failure has the lower number, so that of the preemption is recorded after it."""
    if state.stop is not None:
        return _nearer(state, event, now), ()
    return replace(state, stop=event, stop_asked_at=now), ()


def stop_at_once(state: RunState, event: StopRequested, now: float) -> Outcome:
    """No worker is up: there is nothing to wait for but the disk."""
    state, noted = note_stop(state, event)
    state = replace(state, stop=event, stop_asked_at=now)
    after, decisions = flush(state, endings.stopped(state, event))
    return after, (*noted, *decisions)


def hurry(state: RunState, event: StopRequested, now: float) -> Outcome:
    """The run is ending anyway, for the reason it had. Whoever asks a second time does not wait for it any longer."""
    state, noted = note_stop(state, event) if state.stop is None else (state, ())
    before = flush_by(state)
    event = event if state.stop is None else replace(event, patient=False)
    after = replace(state, stop=event, stop_asked_at=now)
    if before is not None and before <= now + state.settings.stop.flush_fraction * event.grace:
        return state, noted
    return after, (*noted, FlushMemory(flush_by(after)))


def stop_again(state: RunState, event: StopRequested, now: float) -> Outcome:
    """Whoever asks twice is in a hurry: no more waiting for a step boundary. The newest complete image still counts."""
    return replace(_nearer(state, event, now), escalation=2), (KillWorkers("asked to stop a second time"),)


def _nearer(state: RunState, again: StopRequested, now: float) -> RunState:
    """Asked to stop already, and now once more: for the reason it had, but by the nearer of the two times."""
    assert state.stop is not None  # noqa: S101  it was asked before
    before = flush_by(state)
    after = replace(state, stop=replace(again, kind=state.stop.kind), stop_asked_at=now)
    by = flush_by(after)
    return after if by is not None and (before is None or by < before) else state


def take_grace(state: RunState, event: GraceKnown, now: float) -> Outcome:
    """The time that there is, in place of what was assumed. What was done already is not taken back."""
    if state.stop is None or state.stop.patient:
        return state, ()
    after = replace(state, stop=replace(state.stop, grace=event.grace), stop_asked_at=now)
    return after, (FlushMemory(flush_by(after)),) if state.phase is Phase.FLUSHING else ()


def escalate(state: RunState, event: Tick, now: float) -> Outcome:
    """Time has passed since the workers were asked: SIGTERM, then SIGKILL, each at its time."""
    assert state.stop is not None  # noqa: S101  STOPPING is only entered with a request
    settings, waited = state.settings.stop, now - state.stop_asked_at
    if state.escalation == 0 and waited > settings.ask_fraction * state.stop.grace:
        return replace(state, escalation=1), (SignalWorkers(),)
    if state.escalation == 1 and waited > settings.term_fraction * state.stop.grace:
        return replace(state, escalation=2), (KillWorkers("no step boundary within the grace"),)
    if state.escalation == 2 and is_late(state, now):
        return flush(replace(state, live=frozenset()), endings.stopped(state, state.stop))
    return state, ()


def exited_while_stopping(state: RunState, event: WorkerExited, now: float) -> Outcome:
    """A worker has left as it was asked to, or was lost on the way."""
    state = without(state, event)
    if state.live and event.failure is not None and _is_sudden(event.failure) and state.escalation < 2:
        # The others wait for it in a collective, or to leave together.
        kill = KillWorkers(f"rank {event.rank} is lost: {event.failure.signature}")
        return replace(state, escalation=2), (kill,)
    if state.live:
        return state, ()
    if len(state.finished) == state.ranks:
        return flush(state, endings.finished(state))
    assert state.stop is not None  # noqa: S101  STOPPING is only entered with a request
    return flush(state, endings.stopped(state, state.stop))


def _is_sudden(failure: Failure) -> bool:
    """Whether it was in the middle of its work. A script that heeds SIGTERM itself is not, and nor are the others."""
    killed = (FailureClass.KILLED, FailureClass.CRASH, FailureClass.HOST_OOM, FailureClass.NODE_LOST)
    return failure.failure_class in killed and failure.signature != "SIGTERM"


def flushed(state: RunState, event: FlushEnded, now: float) -> Outcome:
    """What could be made durable is: the run ends."""
    assert state.ending is not None  # noqa: S101  FLUSHING is only entered with an ending
    return end(state, endings.flushed(state.ending, event, state.stop))
