"""What the decision core wants done. The supervisor carries these out in order and reports back with events."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.errors import ExitCode
from resilient.policy.divergence.verdicts import Finding
from resilient.policy.events import Incident, RollbackRequested, StopKind, Tier
from resilient.policy.failed_rounds import FailedRound
from resilient.policy.lineage import Lineage
from resilient.policy.stragglers import Straggler


@dataclass(frozen=True)
class Decision:
    """Something to be done."""


@dataclass(frozen=True)
class ListSnapshots(Decision):
    """Say what could be resumed from (answered by ``SnapshotsListed``); in a run of several nodes, who is there first
    (answered by ``NodesSeen``, until there is a ``FormGroup``).
    """


@dataclass(frozen=True)
class FormGroup(Decision):
    """Train on these nodes: deal out their ranks, then say what could be resumed from (``SnapshotsListed``). Whoever
    else is there stands by. Where one of them is lost meanwhile, ``NodesSeen`` is told again instead.

    :param nodes: their names, that of whoever decides first.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class RestoreSnapshot(Decision):
    """Bring a snapshot into the memory of its ranks' nodes, verified (``SnapshotRestored`` or ``SnapshotRejected``)."""

    step: int
    tier: Tier = Tier.LOCAL


@dataclass(frozen=True)
class LaunchRound(Decision):
    """Start all workers. They resume from the memory image of ``step``, or afresh when it is None.

    :param source: the tier in which the snapshot was found.
    """

    round: int
    step: int | None = None
    source: Tier | None = None


@dataclass(frozen=True)
class AskWorkers(Decision):
    """Ask on the board: take a snapshot at the next step boundary and leave.

    :param gone_by: when they will have been killed if they do not.
    :param flush_by: when what is to be durable must be; None for no such time.
    """

    kind: StopKind
    gone_by: float
    flush_by: float | None


@dataclass(frozen=True)
class RegroupWorkers(Decision):
    """Ask likewise, so that the group can form anew; there is no hurry, and the run goes on.

    :param nodes: those with which it is to.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class SignalWorkers(Decision):
    """Send SIGTERM to the workers."""


@dataclass(frozen=True)
class DumpStacks(Decision):
    """Write the stacks of all ranks down before they are killed (answered by ``StacksDumped``).

    :param number: the number the incident will have.
    :param ranks: those that are there.
    :param hung: those that are over their limit.
    :param by: when the answer is to be given, with whatever there is.
    """

    number: int
    ranks: tuple[int, ...]
    hung: tuple[int, ...]
    by: float


@dataclass(frozen=True)
class ReportStraggler(Decision):
    """Say that a rank holds the others up, or does not any more."""

    straggler: Straggler


@dataclass(frozen=True)
class ReportFinding(Decision):
    """Say what the detectors have seen. What follows from it, if anything does, is another decision."""

    finding: Finding


@dataclass(frozen=True)
class RefuseRollback(Decision):
    """Tell whoever asked for a rollback that there will be none.

    :param why: one sentence, and what can be done instead.
    """

    request: RollbackRequested
    why: str


@dataclass(frozen=True)
class AbandonRestore(Decision):
    """Whoever reads the snapshot into memory stands still: end it. It answers no more."""

    step: int
    tier: Tier


@dataclass(frozen=True)
class KillWorkers(Decision):
    """SIGKILL the whole process tree of every worker."""

    reason: str


@dataclass(frozen=True)
class FlushMemory(Decision):
    """Make what memory holds durable, the newest above all (answered by ``FlushEnded``).

    :param by: when the run has to end, durable or not; None for whenever it is done. Said a second time if somebody
        asks the run to stop meanwhile.
    """

    by: float | None = None


@dataclass(frozen=True)
class DiscardMemory(Decision):
    """Void all memory images: a worker could not resume from them."""


@dataclass(frozen=True)
class SaveLineage(Decision):
    """Write the lineage down, durably, before anything that follows is done."""

    lineage: Lineage


@dataclass(frozen=True)
class DiscardAfter(Decision):
    """The run goes on from ``step``: void memory images of later steps, forget what of them waits for the disk, and set
    their committed snapshots aside.
    """

    step: int


@dataclass(frozen=True)
class ReplayWindow(Decision):
    """Run steps again from the snapshot of ``snapshot``, and compare (answered by ``ReplayEnded``).

    :param number: the incident's.
    :param first: the first step that looked wrong.
    :param last: the last step to run again.
    :param by: when the answer is to be given, with whatever there is.
    """

    number: int
    snapshot: int
    first: int
    last: int
    by: float


@dataclass(frozen=True)
class AbandonReplay(Decision):
    """The run is to stop, or the replay takes too long: end it. It answers no more."""


@dataclass(frozen=True)
class DistrustNode(Decision):
    """Write down that this node computes wrong, so that the run is not started on it again."""

    reason: str
    incident: int


@dataclass(frozen=True)
class RecordIncident(Decision):
    """Write the incident down and show it.

    :param charged: what it adds to the history that the stop rules read; None when it is charged to no budget.
    """

    incident: Incident
    charged: FailedRound | None = None


@dataclass(frozen=True)
class EndRun(Decision):
    """Leave with this exit code.

    :param diagnosis: what happened, at which step, what was tried and what to do; one paragraph.
    """

    exit_code: ExitCode
    diagnosis: str
