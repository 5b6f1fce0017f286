"""How often to take snapshots, from what they cost and how often things fail."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


def best_interval(save_seconds: float, failure_seconds: float, restart_seconds: float) -> float:
    """Seconds of work between two saves that lose the least time in the long run.

    ``T = T_s + sqrt(2 (T_f + T_r) T_s + T_s²)``: the interval of Young (1974) and Daly (2006), with the save itself
    counted in.

    :param save_seconds: how long a save stops the training, T_s.
    :param failure_seconds: mean time between failures, T_f.
    :param restart_seconds: from a failure to the next step, T_r.
    """
    if min(save_seconds, failure_seconds, restart_seconds) < 0:
        raise ValueError("times must not be negative")
    return save_seconds + math.sqrt(2 * (failure_seconds + restart_seconds) * save_seconds + save_seconds**2)


def expected_failure_seconds(prior: float, up: float, losses: int) -> float:
    """Mean time between two losses of a machine's memory, T_f.

    What was assumed beforehand counts as one failure in ``prior`` seconds, so that the first hours without a failure,
    or one early failure, do not decide alone.

    :param prior: seconds, assumed before anything has been seen.
    :param up: seconds that the run has been up.
    :param losses: how often what was in memory was lost meanwhile.
    """
    return (prior + up) / (1 + losses)


@dataclass(frozen=True)
class DurableCost:
    """What making a snapshot durable costs, learned while training; all in seconds.

    :param training: how long it kept the training from its work: the stall when the snapshot was taken, and what the
        steps took longer while it was being written.
    :param writing: from the snapshot to its being durable.
    """

    training: float = 0.0
    writing: float = 0.0
    count: int = 0

    def add(self, training: float, writing: float) -> DurableCost:
        """One more has become durable."""
        return DurableCost(
            _mean(self.training, training, self.count), _mean(self.writing, writing, self.count), self.count + 1
        )

    def interval(self, failure_seconds: float, restart_seconds: float, least: float, most: float) -> float:
        """Seconds between two durable snapshots: :func:`best_interval`, between ``least`` and ``most``, and never
        shorter than one takes to be written. ``least`` while nothing is known.
        """
        if not self.count:
            return least
        best = best_interval(self.training, failure_seconds, restart_seconds)
        return max(self.writing, min(most, max(least, best)))


@dataclass(frozen=True)
class Pace:
    """What steps and memory snapshots cost, learned while training; both in seconds.

    Exponential means over about the last ``1 / RATE`` observations: one slow step must not change the interval, and a
    step time that has changed for good must.
    """

    RATE = 0.05
    step: float = 0.0
    stall: float = 0.0
    steps: int = 0
    stalls: int = 0

    def stepped(self, seconds: float) -> Pace:
        """A step took so long, its snapshot not counted."""
        return replace(self, step=_mean(self.step, seconds, self.steps), steps=self.steps + 1)

    def stalled(self, seconds: float) -> Pace:
        """A memory snapshot held the training up so long."""
        return replace(self, stall=_mean(self.stall, seconds, self.stalls), stalls=self.stalls + 1)

    def stalled_longer(self, seconds: float) -> Pace:
        """The memory snapshot seen last held the training up for so much longer than was said."""
        if not self.stalls:
            return self
        return replace(self, stall=self.stall + max(self.RATE, 1 / self.stalls) * seconds)

    def memory_interval(self, overhead: float, most: int) -> int:
        """Steps between two memory snapshots, so that they cost no more than ``overhead`` (a fraction) of the step
        time.

        As often as that allows, because a step that is not lost need not be repeated; 1 while nothing is known.

        :param most: steps at the most, whatever they cost.
        """
        if not self.steps or not self.stalls or self.step <= 0:
            return 1
        wanted = self.stall / (overhead * self.step)
        return max(1, min(most, math.ceil(wanted * (1 - 1e-12))))  # 10.000000000000002 steps are 10


def _mean(mean: float, value: float, count: int) -> float:
    weight = max(Pace.RATE, 1 / (count + 1))
    return mean + weight * (value - mean)
