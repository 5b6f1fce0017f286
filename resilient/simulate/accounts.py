"""The books of a simulation: where every second went, and how often what happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from resilient.simulate.costs import Costs
from resilient.simulate.held import Held
from resilient.simulate.ledger import Bucket, Ledger
from resilient.simulate.outcome import Outcome, Storage
from resilient.simulate.plan import Plan
from resilient.simulate.rounds import Round


@dataclass
class Accounts:
    """All counts of one run.

    :ivar cause: what time that is lost now is lost for.
    :ivar up: seconds in which steps were taken.
    :ivar losses: how often what was in memory was lost.
    """

    cause: str = "start"
    bucket: Bucket = Bucket.LAUNCH
    since: float = 0.0
    up: float = 0.0
    losses: int = 0
    decisions: int = 0
    interruptions: int = 0
    preemptions: int = 0
    rounds: int = 0
    interval: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    incidents: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)

    def turn(self, bucket: Bucket, now: float) -> None:
        """What was done since the last turn is over, and ``bucket`` begins."""
        self.ledger.spend(self.bucket, now - self.since, self.cause)
        self.bucket, self.since = bucket, now

    def settle(self, steps: Round, count: int, now: float, rest: Bucket) -> None:
        """A round of which ``count`` steps are complete comes to its end.

        :param rest: what the step counts as that is not complete.
        """
        left = now - steps.complete_at(count)
        self.ledger.spend(Bucket.TRAINING, count * steps.step_seconds, self.cause)
        for bucket, every, seconds in (
            (Bucket.STALL, steps.costs.memory_steps, steps.costs.stall),
            (Bucket.DURABLE, steps.durable_steps, steps.costs.training),
            (Bucket.COPYING, steps.costs.peer_steps, steps.costs.copying),
        ):
            if not every:
                continue
            current = min(left, seconds) if count and count % every == 0 else 0.0
            self.ledger.spend(bucket, (max(count - 1, 0) // every) * seconds + current, self.cause)
            left -= current
        self.ledger.spend(rest, left, self.cause)
        self.up += now - steps.began
        self.since = now

    def outcome(
        self, plan: Plan, costs: Costs, held: Held, reached: int, ended: tuple[int, str, float] | None
    ) -> Outcome:
        size, seconds = plan.snapshot_bytes, plan.seconds
        written = zip(("local", "remote"), held.written, (costs.local, costs.remote), strict=True)
        return Outcome(
            plan=plan,
            step=reached,
            buckets=dict(self.ledger.buckets),
            causes=dict(self.ledger.causes),
            failures=dict(self.failures.most_common()),
            interruptions=self.interruptions,
            preemptions=self.preemptions,
            incidents=dict(self.incidents.most_common()),
            rounds=self.rounds,
            resumed=dict(self.resumed),
            decisions=self.decisions,
            interval=self.interval,
            storage={
                tier: Storage(count * size, count * size / seconds, size / takes if count else 0.0)
                for tier, count, takes in written
            },
            ended=ended,
        )
