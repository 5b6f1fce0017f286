"""The life of a run as a state machine without I/O.

Theory of operation
-------------------
A run moves through a few phases. The supervisor feeds events in; :func:`decide` looks the pair *(phase, event type)*
up in :data:`TABLE` and applies the rule it finds there, which returns the next state and the decisions to carry out.
A pair that is not in the table is a bug and raises :class:`UnlistedTransition`; a rule may only lead to the phases
that its row lists, which is checked at every step and from which the diagram in the documentation is drawn.

* ``NEW → CHOOSING``: the supervisor owns the run; it lists what could be resumed from.
* ``CHOOSING → STARTING`` with a memory image or with nothing; ``CHOOSING → RESTORING`` when the newest snapshot has
  to come from a durable tier; a snapshot that fails verification is quarantined and the choice is made anew.
* ``STARTING → RUNNING`` with the first completed step.
* ``→ CLEARING`` when one worker is lost: the rest of the group is killed, and when all are gone the stop rules decide
  between a relaunch (``CHOOSING``, or ``WAITING`` first) and an end.
* ``→ STOPPING`` on request: ask on the board, then SIGTERM, then SIGKILL of the tree, each at its time.
* ``→ FLUSHING`` when no worker is left and the run will not go on here: what is in memory is made durable first.
* ``→ ENDED`` with an exit code and one diagnosis.

The order of escalation, and the rule that nothing is relaunched before every worker of the round is gone, stand here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from resilient.policy import endings
from resilient.policy.decisions import (
    AskWorkers,
    Decision,
    DiscardMemory,
    EndRun,
    FlushMemory,
    KillWorkers,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    RestoreSnapshot,
    SignalWorkers,
)
from resilient.policy.events import (
    Event,
    FlushEnded,
    Incident,
    LaunchFailed,
    RestoreFailed,
    RunOpened,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangWatch
from resilient.policy.restarts import (
    FailedRound,
    stop_rule,
    wait_before_relaunch,
)
from resilient.policy.restore import Source, choose_source
from resilient.policy.state import Phase, RunState


class UnlistedTransition(RuntimeError):  # noqa: N818  named by condition, as all our errors
    """An event that the table does not foresee in this phase, or a rule that leads where its row does not list."""


Outcome = tuple[RunState, tuple[Decision, ...]]


def decide(state: RunState, event: Event, now: float) -> Outcome:
    """Take one event into account.

    :param now: seconds on the clock of all events.
    :returns: the next state and what is to be done, in order.
    :raises UnlistedTransition: the table has no row for this event in this phase.
    """
    row = TABLE[state.phase].get(type(event))
    if row is None:
        raise UnlistedTransition(f"{type(event).__name__} in phase {state.phase.value}")
    after, decisions = row.rule(state, event, now)
    if after.phase not in row.targets:
        raise UnlistedTransition(f"{type(event).__name__}: {state.phase.value} → {after.phase.value} is not listed")
    return after, decisions


# --- choosing what to resume from -------------------------------------------------------------------------------------


def _open(state: RunState, event: RunOpened, now: float) -> Outcome:
    state = replace(state, round=event.last_round, incidents=event.incidents)
    if not event.takeover:
        return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)
    lost = Failure(FailureClass.SUPERVISOR_LOST, "the supervisor before this one ended without closing the run")
    state, incident = _incident(state, lost, rank=None, remedy="take over", step=event.step)
    return replace(state, phase=Phase.CHOOSING), (RecordIncident(incident), ListSnapshots())


def _choose(state: RunState, event: SnapshotsListed, now: float) -> Outcome:
    source = choose_source(event, [Source(rejected.step, rejected.tier) for rejected in state.rejected])
    if source is None and event.remote_problem is not None:
        return _end(state, endings.remote_unknown(event.remote_problem))
    if source is None and (state.rejected or event.quarantined):
        return _end(state, endings.none_loadable(state, event))
    if source is None:
        return _launch(state, LaunchRound(state.round + 1), now)
    if source.tier is Tier.MEMORY:
        return _launch(state, LaunchRound(state.round + 1, source.step, Tier.MEMORY), now)
    return replace(state, phase=Phase.RESTORING), (RestoreSnapshot(source.step, source.tier),)


def _restored(state: RunState, event: SnapshotRestored, now: float) -> Outcome:
    # What was rejected on disk is set aside. What is found there of this step from now on is another copy.
    rejected = tuple(old for old in state.rejected if (old.step, old.tier) != (event.step, Tier.LOCAL))
    state = replace(state, rejected=rejected)
    return _launch(state, LaunchRound(state.round + 1, event.step, event.tier), now)


def _rejected(state: RunState, event: SnapshotRejected, now: float) -> Outcome:
    failure = Failure(FailureClass.BAD_SNAPSHOT, event.reason)
    state, incident = _incident(
        state, failure, rank=None, step=event.step, remedy="set it aside, resume from another copy or an older one"
    )
    after = replace(state, phase=Phase.CHOOSING, rejected=(*state.rejected, event))
    return after, (RecordIncident(incident), ListSnapshots())


def _restore_failed(state: RunState, event: RestoreFailed, now: float) -> Outcome:
    """Try again a few times: the snapshot itself may be sound, and an older one would fail in the same way."""
    if state.restore_failures + 1 < _RESTORE_TRIES:
        after = replace(state, phase=Phase.CHOOSING, restore_failures=state.restore_failures + 1)
        return after, (ListSnapshots(),)
    return _end(state, endings.not_restored(event, _RESTORE_TRIES))


_RESTORE_TRIES = 3


def _launch(state: RunState, launch: LaunchRound, now: float) -> Outcome:
    ranks = range(state.settings.ranks)
    after = replace(
        state,
        phase=Phase.STARTING,
        round=launch.round,
        step=launch.step or 0,
        furthest=max(state.furthest, state.step, launch.step or 0),
        live=frozenset(ranks),
        finished=frozenset(),
        steps=dict.fromkeys(ranks, launch.step or 0),
        watches={rank: HangWatch(since=now) for rank in ranks},
        failure=None,
        restore_failures=0,
    )
    return after, (launch,)


def _launch_failed(state: RunState, event: LaunchFailed, now: float) -> Outcome:
    state, incident = _incident(state, event.failure, rank=None, remedy="relaunch")
    state = replace(state, live=frozenset(), failure=incident)
    after, decisions = _judge(state, now)
    return after, (RecordIncident(incident), *decisions)


# --- a round is up ----------------------------------------------------------------------------------------------------


def _progressed(state: RunState, event: WorkerProgressed, now: float) -> Outcome:
    watches = {**state.watches, event.rank: state.watches[event.rank].progressed(event.phase, now)}
    phase = Phase.RUNNING if state.phase is Phase.STARTING and event.phase == "step" else state.phase
    steps = {**state.steps, event.rank: event.step}
    step = max(state.step, min(steps.values()))
    # What is taken from here on is new, also where a copy of the same step was rejected before.
    rejected = tuple(old for old in state.rejected if old.step > step)
    return replace(state, phase=phase, step=step, steps=steps, watches=watches, rejected=rejected), ()


def _exited(state: RunState, event: WorkerExited, now: float) -> Outcome:
    state = _without(state, event)
    if event.failure is not None:
        return _worker_lost(state, event, event.failure, now)
    if state.live:
        return state, ()
    if len(state.finished) == state.settings.ranks:
        return _flush(state, endings.finished(state))
    return _judge(state, now)


def _worker_lost(state: RunState, event: WorkerExited, failure: Failure, now: float) -> Outcome:
    state, incident = _incident(state, failure, rank=event.rank, step=event.step, remedy="relaunch")
    state = replace(state, failure=incident)
    if state.live:
        kill = KillWorkers(f"rank {event.rank} is lost: {failure.signature}")
        return replace(state, phase=Phase.CLEARING), (RecordIncident(incident), kill)
    after, decisions = _judge(state, now)
    return after, (RecordIncident(incident), *decisions)


def _watch(state: RunState, event: Tick, now: float) -> Outcome:
    settings = state.settings.hang
    hung = [rank for rank in sorted(state.live) if state.watches[rank].is_hung(settings, now)]
    if not hung:
        return state, ()
    watch = state.watches[hung[0]]
    failure = Failure(FailureClass.HANG, f"no progress in phase {watch.phase}")
    state, incident = _incident(state, failure, rank=hung[0], remedy="kill and relaunch")
    kill = KillWorkers(f"rank {hung[0]} hangs: {failure.signature} within {watch.limit(settings):.1f} s")
    return replace(state, phase=Phase.CLEARING, failure=incident), (RecordIncident(incident), kill)


def _cleared(state: RunState, event: WorkerExited, now: float) -> Outcome:
    state = _without(state, event)
    return (state, ()) if state.live else _judge(state, now)


def _judge(state: RunState, now: float) -> Outcome:
    """All workers are gone and the run is not finished: relaunch, wait and relaunch, or give up."""
    incident = state.failure
    if state.stop is not None:
        return _flush(state, endings.stopped(state, state.stop))
    if incident is None:  # every rank left in good order, but not all of them said that the run is finished
        failure = Failure(FailureClass.UNFINISHED, "some ranks finished and others did not")
        state, incident = _incident(state, failure, rank=None, remedy="relaunch")
        after, decisions = _judge(replace(state, failure=incident), now)
        return after, (RecordIncident(incident), *decisions)
    if incident.failure.failure_class is FailureClass.PREEMPTION:  # SIGTERM to a worker alone: charged to no budget
        return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)
    failed = FailedRound(incident.failure, state.furthest, state.step, now)
    state = replace(state, history=state.history.add(failed))
    verdict = stop_rule(state.settings.restarts)(state.history)
    if verdict is not None:
        return _flush(state, endings.given_up(state, incident, verdict))
    wait = wait_before_relaunch(state.settings.restarts, state.history)
    discard: tuple[Decision, ...] = ()
    if incident.failure.failure_class is FailureClass.BAD_SNAPSHOT:
        rejected = SnapshotRejected(state.step, Tier.MEMORY, incident.failure.signature)
        state, discard = replace(state, rejected=(*state.rejected, rejected)), (DiscardMemory(),)
    if wait > 0:
        return replace(state, phase=Phase.WAITING, relaunch_at=now + wait), discard
    return replace(state, phase=Phase.CHOOSING), (*discard, ListSnapshots())


def _wait(state: RunState, event: Tick, now: float) -> Outcome:
    if now < state.relaunch_at:
        return state, ()
    return replace(state, phase=Phase.CHOOSING), (ListSnapshots(),)


# --- stopping ---------------------------------------------------------------------------------------------------------


def _ask_to_stop(state: RunState, event: StopRequested, now: float) -> Outcome:
    state, noted = _noted(state, event)
    after = replace(state, phase=Phase.STOPPING, stop=event, stop_asked_at=now, escalation=0)
    gone_by = now + state.settings.stop.term_fraction * event.grace
    return after, (AskWorkers(event.kind, gone_by, _flush_by(after)), *noted)


def _noted(state: RunState, event: StopRequested) -> tuple[RunState, tuple[Decision, ...]]:
    """A preemption is an incident, though nobody's fault and charged to no budget; a request is none."""
    if event.kind is not StopKind.PREEMPTION:
        return state, ()
    failure = Failure(FailureClass.PREEMPTION, "asked to leave")
    state, incident = _incident(state, failure, rank=None, remedy="make a last snapshot durable, ask for a requeue")
    return state, (RecordIncident(incident),)


def _stop_while_clearing(state: RunState, event: StopRequested, now: float) -> Outcome:
    if state.stop is not None:
        return _nearer(state, event, now), ()
    state, noted = _noted(state, event)
    return replace(state, stop=event, stop_asked_at=now), noted


def _stop_at_once(state: RunState, event: StopRequested, now: float) -> Outcome:
    state, noted = _noted(state, event)
    state = replace(state, stop=event, stop_asked_at=now)
    after, decisions = _flush(state, endings.stopped(state, event))
    return after, (*noted, *decisions)


def _hurry(state: RunState, event: StopRequested, now: float) -> Outcome:
    """The run is ending anyway, for the reason it had. Whoever asks a second time does not wait for it any longer."""
    state, noted = _noted(state, event) if state.stop is None else (state, ())
    before = _flush_by(state)
    event = event if state.stop is None else replace(event, patient=False)
    after = replace(state, stop=event, stop_asked_at=now)
    if before is not None and before <= now + state.settings.stop.flush_fraction * event.grace:
        return state, noted
    return after, (*noted, FlushMemory(_flush_by(after)))


def _stop_again(state: RunState, event: StopRequested, now: float) -> Outcome:
    """Whoever asks twice is in a hurry: no more waiting for a step boundary. The newest complete image still counts."""
    return replace(_nearer(state, event, now), escalation=2), (KillWorkers("asked to stop a second time"),)


def _nearer(state: RunState, again: StopRequested, now: float) -> RunState:
    """Asked to stop already, and now once more: for the reason it had, but by the nearer of the two times."""
    assert state.stop is not None  # noqa: S101  it was asked before
    before = _flush_by(state)
    after = replace(state, stop=replace(again, kind=state.stop.kind), stop_asked_at=now)
    by = _flush_by(after)
    return after if by is not None and (before is None or by < before) else state


def _escalate(state: RunState, event: Tick, now: float) -> Outcome:
    assert state.stop is not None  # noqa: S101  STOPPING is only entered with a request
    settings, waited = state.settings.stop, now - state.stop_asked_at
    if state.escalation == 0 and waited > settings.ask_fraction * state.stop.grace:
        return replace(state, escalation=1), (SignalWorkers(),)
    if state.escalation == 1 and waited > settings.term_fraction * state.stop.grace:
        return replace(state, escalation=2), (KillWorkers("no step boundary within the grace"),)
    return state, ()


def _exited_while_stopping(state: RunState, event: WorkerExited, now: float) -> Outcome:
    state = _without(state, event)
    if state.live and event.failure is not None and _is_sudden(event.failure) and state.escalation < 2:
        # The others wait for it in a collective, or to leave together.
        kill = KillWorkers(f"rank {event.rank} is lost: {event.failure.signature}")
        return replace(state, escalation=2), (kill,)
    if state.live:
        return state, ()
    if len(state.finished) == state.settings.ranks:
        return _flush(state, endings.finished(state))
    assert state.stop is not None  # noqa: S101  STOPPING is only entered with a request
    return _flush(state, endings.stopped(state, state.stop))


def _is_sudden(failure: Failure) -> bool:
    """Whether it was in the middle of its work. A script that heeds SIGTERM itself is not, and nor are the others."""
    killed = (FailureClass.KILLED, FailureClass.CRASH, FailureClass.HOST_OOM)
    return failure.failure_class in killed and failure.signature != "SIGTERM"


def _flush(state: RunState, ending: EndRun) -> Outcome:
    return replace(state, phase=Phase.FLUSHING, ending=ending), (FlushMemory(_flush_by(state)),)


def _flush_by(state: RunState) -> float | None:
    if state.stop is None or state.stop.patient:
        return None
    return state.stop_asked_at + state.settings.stop.flush_fraction * state.stop.grace


def _flushed(state: RunState, event: FlushEnded, now: float) -> Outcome:
    assert state.ending is not None  # noqa: S101  FLUSHING is only entered with an ending
    return _end(state, endings.flushed(state.ending, event, state.stop))


def _end(state: RunState, ending: EndRun) -> Outcome:
    return replace(state, phase=Phase.ENDED, ending=ending), (ending,)


def _ignore(state: RunState, event: Event, now: float) -> Outcome:
    return state, ()


# --- pieces the rules share -------------------------------------------------------------------------------------------


def _without(state: RunState, event: WorkerExited) -> RunState:
    finished = state.finished | {event.rank} if event.finished else state.finished
    steps = {**state.steps, event.rank: event.step}
    step = max(state.step, min(steps.values()))
    return replace(state, live=state.live - {event.rank}, finished=finished, step=step, steps=steps)


def _incident(
    state: RunState, failure: Failure, *, rank: int | None, remedy: str, step: int | None = None
) -> tuple[RunState, Incident]:
    number = state.incidents + 1
    at_step = state.step if step is None else step
    incident = Incident(number, max(state.round, 0), rank, at_step, failure, remedy)
    return replace(state, incidents=number), incident


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One cell of the table: the rule, and the phases it may lead to."""

    rule: Callable[[RunState, Event, float], Outcome]
    targets: frozenset[Phase]


def _row(rule: Callable[..., Outcome], *targets: Phase) -> Row:
    return Row(rule, frozenset(targets))


_AFTER_LOSS = (Phase.CHOOSING, Phase.WAITING, Phase.FLUSHING)

TABLE: Mapping[Phase, Mapping[type[Event], Row]] = {
    Phase.NEW: {
        RunOpened: _row(_open, Phase.CHOOSING),
        StopRequested: _row(_stop_at_once, Phase.FLUSHING),
        Tick: _row(_ignore, Phase.NEW),
    },
    Phase.CHOOSING: {
        SnapshotsListed: _row(_choose, Phase.STARTING, Phase.RESTORING, Phase.ENDED),
        StopRequested: _row(_stop_at_once, Phase.FLUSHING),
        Tick: _row(_ignore, Phase.CHOOSING),
    },
    Phase.RESTORING: {
        SnapshotRestored: _row(_restored, Phase.STARTING),
        SnapshotRejected: _row(_rejected, Phase.CHOOSING),
        RestoreFailed: _row(_restore_failed, Phase.CHOOSING, Phase.ENDED),
        StopRequested: _row(_stop_at_once, Phase.FLUSHING),
        Tick: _row(_ignore, Phase.RESTORING),
    },
    Phase.STARTING: {
        WorkerProgressed: _row(_progressed, Phase.STARTING, Phase.RUNNING),
        WorkerExited: _row(_exited, Phase.STARTING, Phase.CLEARING, *_AFTER_LOSS),
        LaunchFailed: _row(_launch_failed, *_AFTER_LOSS),
        StopRequested: _row(_ask_to_stop, Phase.STOPPING),
        Tick: _row(_watch, Phase.STARTING, Phase.CLEARING),
    },
    Phase.RUNNING: {
        WorkerProgressed: _row(_progressed, Phase.RUNNING),
        WorkerExited: _row(_exited, Phase.RUNNING, Phase.CLEARING, *_AFTER_LOSS),
        StopRequested: _row(_ask_to_stop, Phase.STOPPING),
        Tick: _row(_watch, Phase.RUNNING, Phase.CLEARING),
    },
    Phase.CLEARING: {
        WorkerProgressed: _row(_progressed, Phase.CLEARING),
        WorkerExited: _row(_cleared, Phase.CLEARING, *_AFTER_LOSS),
        StopRequested: _row(_stop_while_clearing, Phase.CLEARING),
        Tick: _row(_ignore, Phase.CLEARING),
    },
    Phase.WAITING: {
        Tick: _row(_wait, Phase.WAITING, Phase.CHOOSING),
        StopRequested: _row(_stop_at_once, Phase.FLUSHING),
    },
    Phase.STOPPING: {
        WorkerProgressed: _row(_progressed, Phase.STOPPING),
        WorkerExited: _row(_exited_while_stopping, Phase.STOPPING, Phase.FLUSHING),
        StopRequested: _row(_stop_again, Phase.STOPPING),
        Tick: _row(_escalate, Phase.STOPPING),
    },
    Phase.FLUSHING: {
        FlushEnded: _row(_flushed, Phase.ENDED),
        StopRequested: _row(_hurry, Phase.FLUSHING),
        SnapshotRestored: _row(_ignore, Phase.FLUSHING),
        SnapshotRejected: _row(_ignore, Phase.FLUSHING),
        RestoreFailed: _row(_ignore, Phase.FLUSHING),
        Tick: _row(_ignore, Phase.FLUSHING),
    },
    Phase.ENDED: {
        StopRequested: _row(_ignore, Phase.ENDED),
        Tick: _row(_ignore, Phase.ENDED),
    },
}
