"""Which interval between durable snapshots loses the least, tried out and by the rule.

Every interval meets the same failures at the same times, so that what differs between them is the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from resilient.policy.events import Tier
from resilient.policy.interval import best_interval
from resilient.simulate.costs import Costs
from resilient.simulate.engine import simulate
from resilient.simulate.faults import LLAMA3, Kind
from resilient.simulate.plan import DAY, Plan

FACTORS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


@dataclass(frozen=True)
class Tried:
    """One interval, and the mean goodput over the seeds with it."""

    seconds: float
    goodput: float


@dataclass(frozen=True)
class Sweep:
    """:param rule: what Young's and Daly's rule says, in seconds; with the costs and failures of the plan."""

    rule: float
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        return max(self.tried, key=lambda trial: trial.goodput)

    @property
    def lost_by_rule(self) -> float:
        """Goodput that the interval of the rule gives away against the best one that was tried."""
        nearest = min(self.tried, key=lambda trial: abs(trial.seconds - self.rule))
        return self.best.goodput - nearest.goodput


def ruled_interval(plan: Plan, kinds: Sequence[Kind] = LLAMA3) -> float:
    """Seconds between two durable snapshots by Young's and Daly's rule.

    What counts as a failure for it is a loss of the memory, after which only what is durable is left. The time until
    the next step is shorter than the machines last by so much that it makes no difference to speak of.
    """
    shares = sum(kind.share for kind in kinds)
    deadly = sum(kind.share for kind in kinds if kind.survives is not Tier.MEMORY) / shares if shares else 0.0
    per_second = deadly * plan.failures_per_second + plan.preemptions_per_day / DAY
    costs = Costs.of(plan)
    restart = plan.clear_seconds + plan.swap_seconds + costs.restore(Tier.REMOTE) + plan.launch_seconds
    lasts = 1 / per_second if per_second else plan.seconds
    return max(best_interval(costs.training, lasts, restart), costs.local + costs.stall)


def sweep(plan: Plan, seeds: int = 3, factors: Sequence[float] = FACTORS, kinds: tuple[Kind, ...] = LLAMA3) -> Sweep:
    """Try intervals around the rule's.

    :param factors: of the rule's interval.
    """
    rule, tried = ruled_interval(plan, kinds), {}
    for factor in factors:
        seconds = max(rule * factor, plan.step_seconds)
        found = [
            simulate(replace(plan, seed=plan.seed + number, durable_seconds=seconds), kinds).goodput
            for number in range(seeds)
        ]
        tried[seconds] = sum(found) / seeds
    return Sweep(rule, tuple(Tried(seconds, goodput) for seconds, goodput in tried.items()))
