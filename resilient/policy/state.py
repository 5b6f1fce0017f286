"""The memory of the decision core: where a run is in its life, and the settings that its rules read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from resilient.errors import ConfigurationError
from resilient.policy.decisions import EndRun, RestoreSnapshot
from resilient.policy.divergence import Divergence, DivergenceSettings
from resilient.policy.events import Incident, SnapshotRejected, StopRequested
from resilient.policy.hang import HangSettings, HangWatch, durations_of
from resilient.policy.lineage import Lineage
from resilient.policy.nodes import Group, NodeSettings
from resilient.policy.restarts import History, RestartSettings
from resilient.policy.roots import Loss
from resilient.policy.stragglers import StragglerSettings, StragglerWatch


class Phase(str, Enum):
    """Where a run is in its life."""

    NEW = "new"
    CHOOSING = "choosing"
    RESTORING = "restoring"
    STARTING = "starting"
    RUNNING = "running"
    DUMPING = "dumping"
    CLEARING = "clearing"
    REPLAYING = "replaying"
    WAITING = "waiting"
    STOPPING = "stopping"
    FLUSHING = "flushing"
    ENDED = "ended"

    __hash__ = str.__hash__  # Enum's own is written in Python, and every decision looks its phase up twice


@dataclass(frozen=True)
class StopSettings:
    """How a run is brought to a stop; the section ``stop`` of the configuration.

    :param ask_fraction: part of the grace given to the workers to reach a step boundary, before SIGTERM.
    :param term_fraction: part of the grace after which the process trees are killed.
    :param flush_fraction: part of the grace after which the run ends even if its last snapshot is not durable yet. The
        time since the workers left is for making it so.
    :param grace_seconds: the grace of a SIGTERM whose deadline nobody told us. SLURM's ``KillWait`` is 30 s by default.
    :param requeue_on_sigterm: SIGTERM is a preemption and the exit code asks for a requeue; otherwise it is a request
        to stop.
    """

    ask_fraction: float = 0.5
    term_fraction: float = 0.6
    flush_fraction: float = 0.95
    grace_seconds: float = 25.0
    requeue_on_sigterm: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ask_fraction <= self.term_fraction <= self.flush_fraction <= 1:
            raise ConfigurationError(
                "the parts of the grace must be 0 ≤ stop.ask_fraction ≤ stop.term_fraction ≤ stop.flush_fraction ≤ 1, "
                f"not {self.ask_fraction}, {self.term_fraction} and {self.flush_fraction}"
            )
        if self.grace_seconds <= 0:
            raise ConfigurationError(f"stop.grace_seconds must be more than 0, not {self.grace_seconds}")


@dataclass(frozen=True)
class PolicySettings:
    """Everything the decision core can be told.

    :param seed: the run's id; waits before a relaunch differ by it.
    :param rolls_back: the run can go on from an earlier snapshot than its last: its script attaches. Where it keeps its
        checkpoints itself, a divergence is only told.
    :param ranks: of all nodes together.
    :param nodes: of a run of several; None for one.
    """

    ranks: int = 1
    restarts: RestartSettings = field(default_factory=RestartSettings)
    hang: HangSettings = field(default_factory=HangSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    stragglers: StragglerSettings = field(default_factory=StragglerSettings)
    divergence: DivergenceSettings = field(default_factory=DivergenceSettings)
    seed: str = ""
    rolls_back: bool = True
    nodes: NodeSettings | None = None


@dataclass(frozen=True)
class Dumping:
    """Some ranks are over their limit, and the stacks of all are being written.

    :param hung: those that were over their limit then.
    :param resume: the phase to go back to, should they all move on by themselves.
    """

    since: float
    hung: tuple[int, ...]
    resume: Phase


@dataclass(frozen=True)
class Reaction:
    """A rollback that is decided and written down, while its workers are not gone yet or a replay is running.

    :param found: what was seen; None where a person asked.
    :param before: the lineage as it was without it.
    :param given_up: why the run does not go on from there; empty where it does.
    :param replay_by: when the replay has to be over; None while there is none.
    """

    found: Divergence | None
    before: Lineage
    given_up: str = ""
    replay_by: float | None = None


@dataclass(frozen=True)
class RunState:
    """The whole memory of the decision core. Times are those of the events.

    :param round: the current or last round; -1 before the first.
    :param step: the last step the slowest rank has completed.
    :param steps: the last step that each rank has completed.
    :param furthest: the furthest step an earlier round reached.
    :param live: ranks that have not exited in this round.
    :param finished: ranks that said in this round that the run is finished.
    :param learned: seconds that each phase was known to take at the most, before this round.
    :param restoring: what is being read into memory, since ``restoring_since``.
    :param launched_at: when the round was launched.
    :param failure: what was noticed first in this round. Its number is that of the incident which is recorded when the
        group is gone, and until then its evidence may be gathered under it.
    :param losses: what is known of each rank that failed in this round.
    :param lineage: rollbacks and known good snapshots; the same as was written down last.
    :param reaction: the rollback that is under way, until no worker is left and it is acted on.
    :param watched: the last divergence that was written down and about which nothing was done, by its step.
    :param stop_noted: the incident of the preemption is written down.
    :param group: the nodes that train together, of a run of several.
    :param formed_ranks: how many ranks they have; None where there is no group.
    :param regrouping: the workers were asked to leave, for the group to form anew.
    """

    settings: PolicySettings = field(default_factory=PolicySettings)
    phase: Phase = Phase.NEW
    round: int = -1
    step: int = 0
    furthest: int = 0
    live: frozenset[int] = frozenset()
    finished: frozenset[int] = frozenset()
    steps: Mapping[int, int] = field(default_factory=dict)
    watches: Mapping[int, HangWatch] = field(default_factory=dict)
    learned: Mapping[str, float] = field(default_factory=dict)
    stragglers: StragglerWatch = field(default_factory=StragglerWatch)
    dumping: Dumping | None = None
    restoring: RestoreSnapshot | None = None
    restoring_since: float = 0.0
    history: History = field(default_factory=History)
    incidents: int = 0
    launched_at: float = 0.0
    failure: Incident | None = None
    losses: tuple[Loss, ...] = ()
    stop: StopRequested | None = None
    stop_asked_at: float = 0.0
    escalation: int = 0
    relaunch_at: float = 0.0
    restore_failures: int = 0
    rejected: tuple[SnapshotRejected, ...] = ()
    ending: EndRun | None = None
    lineage: Lineage = field(default_factory=Lineage)
    reaction: Reaction | None = None
    watched: int | None = None
    stop_noted: bool = False
    group: Group = field(default_factory=Group)
    formed_ranks: int | None = None
    regrouping: bool = False

    @property
    def ranks(self) -> int:
        """How many train together now."""
        return self.settings.ranks if self.formed_ranks is None else self.formed_ranks

    @property
    def are_to_leave(self) -> bool:
        """Whether the workers were asked to leave, and do what they are to when they do."""
        return self.stop is not None or self.regrouping

    @property
    def durations(self) -> Mapping[str, float]:
        """Seconds that each phase is known to take at the most, this round included."""
        return {**self.learned, **durations_of(self.watches.values(), self.settings.hang.factor)}
