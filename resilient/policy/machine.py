"""The life of a run as a state machine without I/O.

Theory of operation
-------------------
A run moves through a few phases. The supervisor feeds events in; :func:`decide` looks the pair *(phase, event type)*
up in :data:`TABLE` and applies the rule it finds there, which returns the next state and the decisions to carry out.
A pair that is not in the table is a bug and raises :class:`UnlistedTransition`; a rule may only lead to the phases
that its row lists, which is checked at every step and from which the diagram in the documentation is drawn.

* ``NEW → CHOOSING``: the supervisor owns the run; it lists what could be resumed from.
  In a run of several nodes they gather first: with all that are wanted, or after a while with fewer; or it ends here
  (``→ FLUSHING``). A group that shrank grows again in the same place; when others have been there for a while, the
  workers are asked to leave for that, and a round that they all have left leads to ``CHOOSING``.
* ``CHOOSING → STARTING`` with a memory image or with nothing; ``CHOOSING → RESTORING`` when the newest snapshot has
  to come from a durable tier; a snapshot that fails verification is quarantined and the choice is made anew.
* ``STARTING → RUNNING`` with the first completed step.
* ``→ DUMPING`` when a rank is silent for too long: the stacks of all are written first. If every rank that was silent
  moves on meanwhile, it was no hang and the round goes on; if not, the group is killed.
* ``→ CLEARING`` when one worker is lost: the rest of the group is killed at once. When all are gone, the root is chosen
  among all ranks' failures and recorded as the incident whose number was reserved at the first notice, and the stop
  rules decide between a relaunch (``CHOOSING``, or ``WAITING`` first) and an end.
* ``→ CLEARING`` likewise when training has diverged, or a person wants it to go on from an earlier step. The rollback
  is written down first, so that it is carried out whatever happens meanwhile. When all are gone, ``→ REPLAYING`` where
  the steps before it can be run again to find out whether the hardware erred; then what is discarded is set aside, and
  ``→ CHOOSING`` finds the target of the rollback, or what lies before it.
* ``→ STOPPING`` on request: ask on the board, then SIGTERM, then SIGKILL of the tree, each at its time.
* ``→ FLUSHING`` when no worker is left, or SIGKILL does not end it, and the run will not go on here: what is in memory
  is made durable first.
* ``→ ENDED`` with an exit code and one diagnosis.

The order of escalation, and the rule that nothing is relaunched before every worker of the round is gone, stand in
:mod:`resilient.policy.rules` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resilient.policy.events import (
    Event,
    FlushEnded,
    GraceKnown,
    LaunchFailed,
    MetricsJudged,
    NodesSeen,
    OwnTimesSeen,
    RanksProgressed,
    ReplayEnded,
    RestoreFailed,
    RollbackRequested,
    RunOpened,
    SkipResolved,
    SnapshotDurable,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StacksDumped,
    StopRequested,
    Tick,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.rules import choosing, diverging, gathering, hanging, losing, pieces, running, stopping, undoing
from resilient.policy.rules.pieces import Outcome
from resilient.policy.state import Phase, RunState


class UnlistedTransition(RuntimeError):  # noqa: N818  named by condition, as all our errors
    """An event that the table does not foresee in this phase, or a rule that leads where its row does not list."""


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


@dataclass(frozen=True)
class Row:
    """One cell of the table: the rule, and the phases it may lead to."""

    rule: Callable[[RunState, Event, float], Outcome]
    targets: frozenset[Phase]


def _row(rule: Callable[..., Outcome], *targets: Phase) -> Row:
    return Row(rule, frozenset(targets))


def _beside(phase: Phase, request: Callable[..., Outcome], *after_request: Phase) -> dict[type[Event], Row]:
    """What may come at any time: from the detectors, from the disk, from a person, from other nodes, and late from who
    was given up.

    :param request: what a rollback that a person wants leads to.
    """
    return {
        MetricsJudged: _row(diverging.late, phase),
        SnapshotDurable: _row(diverging.durable, phase),
        SkipResolved: _row(diverging.resolved, phase),
        ReplayEnded: _row(pieces.ignore, phase),
        RollbackRequested: _row(request, phase, *after_request),
        NodesSeen: _row(pieces.ignore, phase),
    }


_AFTER_LOSS = (Phase.CHOOSING, Phase.WAITING, Phase.REPLAYING, Phase.FLUSHING)

TABLE: Mapping[Phase, Mapping[type[Event], Row]] = {
    Phase.NEW: {
        **_beside(Phase.NEW, diverging.refuse),
        SnapshotDurable: _row(pieces.ignore, Phase.NEW),
        RunOpened: _row(choosing.open_run, Phase.CHOOSING),
        StopRequested: _row(stopping.stop_at_once, Phase.FLUSHING),
        Tick: _row(pieces.ignore, Phase.NEW),
    },
    Phase.CHOOSING: {
        **_beside(Phase.CHOOSING, diverging.requested),
        NodesSeen: _row(gathering.nodes_seen, Phase.CHOOSING, Phase.FLUSHING),
        SnapshotsListed: _row(choosing.choose, Phase.STARTING, Phase.RESTORING, Phase.ENDED),
        StopRequested: _row(stopping.stop_at_once, Phase.FLUSHING),
        Tick: _row(pieces.ignore, Phase.CHOOSING),
    },
    Phase.RESTORING: {
        **_beside(Phase.RESTORING, diverging.requested, Phase.CHOOSING),
        SnapshotRestored: _row(choosing.restored, Phase.STARTING),
        SnapshotRejected: _row(choosing.rejected, Phase.CHOOSING),
        RestoreFailed: _row(choosing.restore_failed, Phase.CHOOSING, Phase.ENDED),
        StopRequested: _row(stopping.stop_at_once, Phase.FLUSHING),
        Tick: _row(choosing.watch_restore, Phase.RESTORING, Phase.CHOOSING, Phase.ENDED),
    },
    Phase.STARTING: {
        **_beside(Phase.STARTING, diverging.requested, Phase.CLEARING),
        MetricsJudged: _row(diverging.judged, Phase.STARTING, Phase.CLEARING),
        WorkerProgressed: _row(running.progressed, Phase.STARTING, Phase.RUNNING),
        RanksProgressed: _row(running.progressed, Phase.STARTING, Phase.RUNNING),
        WorkerExited: _row(running.exited, Phase.STARTING, Phase.CLEARING, *_AFTER_LOSS),
        LaunchFailed: _row(losing.launch_failed, *_AFTER_LOSS),
        StopRequested: _row(stopping.ask_to_stop, Phase.STOPPING),
        Tick: _row(hanging.watch, Phase.STARTING, Phase.DUMPING, Phase.CLEARING),
    },
    Phase.RUNNING: {
        **_beside(Phase.RUNNING, diverging.requested, Phase.CLEARING),
        NodesSeen: _row(gathering.grow, Phase.RUNNING),
        MetricsJudged: _row(diverging.judged, Phase.RUNNING, Phase.CLEARING),
        WorkerProgressed: _row(running.progressed, Phase.RUNNING),
        RanksProgressed: _row(running.progressed, Phase.RUNNING),
        OwnTimesSeen: _row(running.compare, Phase.RUNNING),
        WorkerExited: _row(running.exited, Phase.RUNNING, Phase.CLEARING, *_AFTER_LOSS),
        StopRequested: _row(stopping.ask_to_stop, Phase.STOPPING),
        Tick: _row(hanging.watch, Phase.RUNNING, Phase.DUMPING, Phase.CLEARING),
    },
    Phase.DUMPING: {
        **_beside(Phase.DUMPING, diverging.requested, Phase.CLEARING),
        MetricsJudged: _row(diverging.judged, Phase.DUMPING, Phase.CLEARING),
        WorkerProgressed: _row(hanging.moved_on, Phase.DUMPING),
        RanksProgressed: _row(hanging.moved_on, Phase.DUMPING),
        WorkerExited: _row(running.exited, Phase.DUMPING, Phase.CLEARING, *_AFTER_LOSS),
        StacksDumped: _row(hanging.stacks_dumped, Phase.CLEARING, Phase.STARTING, Phase.RUNNING),
        StopRequested: _row(hanging.stop_while_dumping, Phase.CLEARING, Phase.STOPPING),
        Tick: _row(hanging.watch_dump, Phase.DUMPING, Phase.CLEARING, Phase.STARTING, Phase.RUNNING),
    },
    Phase.CLEARING: {
        **_beside(Phase.CLEARING, diverging.requested),
        MetricsJudged: _row(diverging.judged, Phase.CLEARING),
        WorkerProgressed: _row(running.progressed, Phase.CLEARING),
        RanksProgressed: _row(running.progressed, Phase.CLEARING),
        WorkerExited: _row(losing.cleared, Phase.CLEARING, *_AFTER_LOSS),
        StopRequested: _row(stopping.stop_while_clearing, Phase.CLEARING),
        GraceKnown: _row(stopping.take_grace, Phase.CLEARING),
        Tick: _row(losing.wait_for_the_killed, Phase.CLEARING, Phase.FLUSHING),
    },
    Phase.REPLAYING: {
        **_beside(Phase.REPLAYING, diverging.requested),
        ReplayEnded: _row(undoing.replay_ended, Phase.CHOOSING, Phase.FLUSHING),
        StopRequested: _row(undoing.stop_while_replaying, Phase.FLUSHING),
        Tick: _row(undoing.watch_replay, Phase.REPLAYING, Phase.CHOOSING),
    },
    Phase.WAITING: {
        **_beside(Phase.WAITING, diverging.requested),
        Tick: _row(losing.wait, Phase.WAITING, Phase.CHOOSING),
        StopRequested: _row(stopping.stop_at_once, Phase.FLUSHING),
    },
    Phase.STOPPING: {
        **_beside(Phase.STOPPING, diverging.requested, Phase.CLEARING),
        MetricsJudged: _row(diverging.judged, Phase.STOPPING, Phase.CLEARING),
        WorkerProgressed: _row(running.progressed, Phase.STOPPING),
        RanksProgressed: _row(running.progressed, Phase.STOPPING),
        WorkerExited: _row(stopping.exited_while_stopping, Phase.STOPPING, Phase.FLUSHING),
        StopRequested: _row(stopping.stop_again, Phase.STOPPING),
        GraceKnown: _row(stopping.take_grace, Phase.STOPPING),
        Tick: _row(stopping.escalate, Phase.STOPPING, Phase.FLUSHING),
    },
    Phase.FLUSHING: {
        **_beside(Phase.FLUSHING, diverging.refuse),
        FlushEnded: _row(stopping.flushed, Phase.ENDED),
        StopRequested: _row(stopping.hurry, Phase.FLUSHING),
        GraceKnown: _row(stopping.take_grace, Phase.FLUSHING),
        WorkerExited: _row(pieces.ignore, Phase.FLUSHING),
        SnapshotRestored: _row(pieces.ignore, Phase.FLUSHING),
        SnapshotRejected: _row(pieces.ignore, Phase.FLUSHING),
        RestoreFailed: _row(pieces.ignore, Phase.FLUSHING),
        Tick: _row(pieces.ignore, Phase.FLUSHING),
    },
    Phase.ENDED: {
        **_beside(Phase.ENDED, diverging.refuse),
        SnapshotDurable: _row(pieces.ignore, Phase.ENDED),
        StopRequested: _row(pieces.ignore, Phase.ENDED),
        GraceKnown: _row(pieces.ignore, Phase.ENDED),
        Tick: _row(pieces.ignore, Phase.ENDED),
    },
}
