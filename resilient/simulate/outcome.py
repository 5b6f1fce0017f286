"""What came of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.errors import ExitCode
from resilient.simulate.ledger import Bucket
from resilient.simulate.plan import HOUR, Plan


@dataclass(frozen=True)
class Storage:
    """What the storage was asked to take.

    :param written: bytes altogether.
    :param average: bytes per second over the whole time.
    :param peak: bytes per second while a snapshot was written.
    """

    written: float
    average: float
    peak: float


@dataclass(frozen=True)
class Outcome:
    """One run, from its beginning to the end of the simulated time.

    :param step: the last step that counts.
    :param buckets: seconds; they add up to the simulated time.
    :param causes: seconds that were lost, by what they were lost for.
    :param failures: how often each kind came, also while nothing was up that it could hit.
    :param interruptions: failures that ended a round.
    :param incidents: by class, as the decision core recorded them.
    :param resumed: rounds by the tier that they resumed from; "nothing" for those that began afresh.
    :param decisions: events that the core was asked about.
    :param interval: seconds between two durable snapshots, in the last round.
    :param ended: how the run ended, and when; None where it was still up.
    """

    plan: Plan
    step: int
    buckets: Mapping[Bucket, float]
    causes: Mapping[str, float]
    failures: Mapping[str, int]
    interruptions: int
    preemptions: int
    incidents: Mapping[str, int]
    rounds: int
    resumed: Mapping[str, int]
    decisions: int
    interval: float
    storage: Mapping[str, Storage]
    ended: tuple[int, str, float] | None = field(default=None)

    @property
    def goodput(self) -> float:
        """Part of the time that went into steps which count, until the run was finished; a run that was given up has
        wasted the rest of the simulated time as well.
        """
        return self.buckets[Bucket.TRAINING] / self.lasted

    @property
    def lasted(self) -> float:
        """Seconds until the run was finished, or all there are."""
        finished = self.ended is not None and self.ended[0] == ExitCode.FINISHED
        return self.plan.seconds - (self.buckets[Bucket.ENDED] if finished else 0.0)

    @property
    def gpu_hours_lost(self) -> Mapping[str, float]:
        """By cause, the largest first."""
        largest = sorted(self.causes.items(), key=lambda item: -item[1])
        return {cause: seconds * self.plan.gpus / HOUR for cause, seconds in largest}

    def to_json(self) -> dict[str, Any]:
        """With stable keys; seconds, bytes and GPU-hours."""
        return {
            "cluster": self.plan.cluster,
            "gpus": self.plan.gpus,
            "days": self.plan.days,
            "seed": self.plan.seed,
            "goodput": self.goodput,
            "step": self.step,
            "seconds": {bucket.value: seconds for bucket, seconds in self.buckets.items()},
            "gpu_hours_lost": dict(self.gpu_hours_lost),
            "failures": dict(self.failures),
            "interruptions": self.interruptions,
            "preemptions": self.preemptions,
            "incidents": dict(self.incidents),
            "rounds": self.rounds,
            "resumed": dict(self.resumed),
            "decisions": self.decisions,
            "durable_interval": self.interval,
            "storage": {tier: vars(load).copy() for tier, load in self.storage.items()},
            "ended": None
            if self.ended is None
            else {"exit_code": self.ended[0], "diagnosis": self.ended[1], "after": self.ended[2]},
        }
