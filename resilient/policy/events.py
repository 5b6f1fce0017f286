"""What the supervisor tells the decision core. All times are seconds on one monotonic clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from resilient.policy.culprit import RankAccount
from resilient.policy.divergence.verdicts import Finding
from resilient.policy.failed_rounds import History
from resilient.policy.failures import Failure
from resilient.policy.lineage import Lineage, Skip
from resilient.policy.stragglers import OwnTime
from resilient.policy.verdict import Verdict


class Tier(str, Enum):
    """Where a snapshot lives, nearest first."""

    MEMORY = "memory"
    PEER = "peer"
    LOCAL = "local"
    REMOTE = "remote"


class StopKind(str, Enum):
    """Why somebody outside wants the run to stop."""

    PREEMPTION = "preemption"
    REQUEST = "request"


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class RunOpened(Event):
    """The supervisor owns the run and nothing of it is running.

    :param takeover: a supervisor before us ended without closing the run.
    :param last_round: the last round of an earlier supervisor; -1 when there was none.
    :param incidents: how many incidents there have been in the run.
    :param step: the newest step of which there is a snapshot.
    :param history: the failed rounds under earlier supervisors; a budget that a relaunch of the supervisor forgets
        lets a bug be requeued for ever.
    :param durations: seconds that each phase was known to take at the most.
    :param lineage: rollbacks and known good snapshots, as they were written down last.
    :param group: the nodes of the last round, in the order of their ranks.
    """

    takeover: bool = False
    last_round: int = -1
    incidents: int = 0
    step: int = 0
    history: History = field(default_factory=History)
    durations: Mapping[str, float] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    group: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodesSeen(Event):
    """Which nodes are there to train on; told while the run looks for what to resume from, whenever that changes and
    again as time passes, until it is answered; and while fewer nodes train than are wanted and others are there.

    :param nodes: their names, that of whoever decides first.
    :param since: when the gathering began; in a round, since when these nodes have been there.
    """

    nodes: tuple[str, ...]
    since: float


@dataclass(frozen=True)
class SnapshotsListed(Event):
    """What could be resumed from, now: steps of the newest image all ranks hold in memory, and of committed ones.

    :param quarantined: how many snapshots are known to be corrupt; with nothing else left, this is no fresh run.
    :param remote_steps: steps in the remote tier.
    :param remote_problem: why nothing is known of the remote tier, where there is one. With nothing else left, this is
        no fresh run either.
    :param ranks: of the group that was formed of several nodes; None for as many as the settings say.
    :param peer_step: the newest step of which each rank's image lies in the memory of some node, though not of its own.
    """

    memory_step: int | None = None
    durable_steps: tuple[int, ...] = ()
    quarantined: int = 0
    remote_steps: tuple[int, ...] = ()
    remote_problem: str | None = None
    ranks: int | None = None
    peer_step: int | None = None


@dataclass(frozen=True)
class SnapshotRestored(Event):
    """A snapshot was verified and lies in the memory of its ranks' nodes, ready for the workers.

    :param durations: seconds that each phase was known to take at the most when it was taken.
    """

    step: int
    tier: Tier = Tier.LOCAL
    durations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotRejected(Event):
    """A snapshot failed verification and is set aside."""

    step: int
    tier: Tier
    reason: str


@dataclass(frozen=True)
class RestoreFailed(Event):
    """A snapshot could not be brought into memory, for a reason that says nothing about the snapshot."""

    step: int
    problem: str
    tier: Tier = Tier.LOCAL


@dataclass(frozen=True)
class WorkerProgressed(Event):
    """A worker completed ``step``, or a phase of it."""

    rank: int
    step: int
    phase: str = "step"

    @property
    def ranks(self) -> tuple[WorkerProgressed, ...]:
        """As of several."""
        return (self,)


@dataclass(frozen=True)
class RanksProgressed(Event):
    """Several workers did, each once: what is known of all ranks is then made anew once, and not for each of them."""

    ranks: tuple[WorkerProgressed, ...]


@dataclass(frozen=True)
class WorkerExited(Event):
    """A worker is gone.

    :param step: the last step it completed.
    :param failure: None for exit 0 after it said that the run is finished, or that it ends early as it was asked to.
    :param finished: it said that the run is finished.
    :param at: when it failed, if that is known to have been earlier than now.
    """

    rank: int
    step: int
    failure: Failure | None = None
    finished: bool = False
    at: float | None = None


@dataclass(frozen=True)
class OwnTimesSeen(Event):
    """What each rank spends on its own in a step, now."""

    times: Mapping[int, OwnTime]


@dataclass(frozen=True)
class MetricsJudged(Event):
    """What the detectors made of the metrics reported up to ``step``.

    :param findings: of that step; empty where there is nothing to say but that training has come so far.
    :param open_onset: the earliest onset of what is wrong after it; None while nothing is.
    """

    step: int
    findings: tuple[Finding, ...] = ()
    open_onset: int | None = None


@dataclass(frozen=True)
class SnapshotDurable(Event):
    """A snapshot has become durable.

    :param removed: steps whose snapshots retention has deleted then.
    """

    step: int
    removed: tuple[int, ...] = ()


@dataclass(frozen=True)
class RollbackRequested(Event):
    """A person wants the run to go on from an earlier step.

    :param target: that step; None for the newest good one.
    :param skip: first and last step whose data is left out; None for none.
    :param lr_factor: what the learning rate is multiplied by from there on, beside what it is already.
    """

    target: int | None
    skip: tuple[int, int] | None = None
    lr_factor: float = 1.0
    request: str = ""


@dataclass(frozen=True)
class SkipResolved(Event):
    """A worker has found out which data is left out, for each range of steps of which that was not known."""

    skips: tuple[Skip, ...]


@dataclass(frozen=True)
class ReplayEnded(Event):
    """The steps before a divergence were run again, or could not be."""

    verdict: Verdict


@dataclass(frozen=True)
class StacksDumped(Event):
    """The stacks of a hung group are written, or as many of them as could be had in time."""

    accounts: tuple[RankAccount, ...] = ()


@dataclass(frozen=True)
class LaunchFailed(Event):
    """The workers could not be started at all."""

    failure: Failure


@dataclass(frozen=True)
class StopRequested(Event):
    """SIGTERM or SIGINT reached the supervisor, or a person asked.

    :param grace: seconds until the process is killed from outside.
    :param patient: nobody kills it then: a person asked, who waits until what is in memory is durable. The workers are
        given the grace all the same.
    """

    kind: StopKind
    grace: float
    patient: bool = False


@dataclass(frozen=True)
class GraceKnown(Event):
    """A run that was asked to stop now knows how long it really has.

    :param grace: seconds from now until the process is killed from outside.
    """

    grace: float


@dataclass(frozen=True)
class FlushEnded(Event):
    """Everything in memory that was to be made durable is, or cannot be.

    :param step: newest durable step, if any.
    :param problem: why the newest state is not durable, or None.
    :param late: it is not because time ran out.
    :param remote_problem: why the newest durable snapshot is not in the remote tier, where it should be.
    :param own: where the script keeps its state itself, what is known of that, in a sentence.
    """

    step: int | None = None
    problem: str | None = None
    late: bool = False
    remote_problem: str | None = None
    own: str = ""


@dataclass(frozen=True)
class Tick(Event):
    """Time passed."""


@dataclass(frozen=True)
class Incident:
    """One detected failure with its class, decision and what it is charged to.

    :param rank: the rank that failed first, if it was one rank.
    :param others: what other ranks failed with, one line each.
    """

    number: int
    round: int
    rank: int | None
    step: int
    failure: Failure
    remedy: str = field(default="")
    others: tuple[str, ...] = ()

    @property
    def followed(self) -> str:
        """How many ranks failed after it, as the end of a sentence; empty where there was none."""
        count = len(self.others)
        return f"; {count} other {'rank' if count == 1 else 'ranks'} failed after it" if count else ""
