"""The steps of one round, all of them at once: what was done by which time, without counting them one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resilient.simulate.costs import Costs
from resilient.simulate.plan import Plan


@dataclass(frozen=True)
class Round:
    """A round without a failure, from the beginning of its first step.

    Steps and snapshots are counted from the first step of the round. The stall of a snapshot, and what making it
    durable costs the training, come between its step and the next.

    :param began: when its first step began.
    :param base: the step that it went on from.
    :param durable_steps: steps between two durable snapshots.
    :param remote_every: one in so many of them goes to the remote tier.
    """

    began: float
    base: int
    step_seconds: float
    costs: Costs
    durable_steps: int
    remote_every: int

    @classmethod
    def planned(cls, began: float, base: int, plan: Plan, costs: Costs, interval: float) -> Round:
        """:param interval: seconds between two durable snapshots, which is rounded up to whole steps."""
        steps = max(1, math.ceil(interval / plan.step_seconds - 1e-9))
        every = max(plan.remote_every, math.ceil(costs.remote / (steps * plan.step_seconds)))  # one upload at a time
        return cls(began, base, plan.step_seconds, costs, steps, every)

    def overhead(self, snapshots_after: int) -> float:
        """Seconds that the snapshots of the first so many steps cost."""
        memory, durable = snapshots_after // self.costs.memory_steps, snapshots_after // self.durable_steps
        copied = snapshots_after // self.costs.peer_steps if self.costs.peer_steps else 0
        return memory * self.costs.stall + durable * self.costs.training + copied * self.costs.copying

    def complete_at(self, count: int) -> float:
        """When step ``count`` of the round is complete; its own snapshot comes after that."""
        return self.began + count * self.step_seconds + (self.overhead(count - 1) if count else 0.0)

    def steps_by(self, now: float) -> int:
        """How many are complete."""
        if now < self.began + self.step_seconds:
            return 0
        low, high = 0, int((now - self.began) / self.step_seconds) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.complete_at(middle) <= now else (low, middle)
        return high if self.complete_at(high) <= now else low

    def _newest(self, now: float, delay: float, every: int) -> int | None:
        step = self.steps_by(now - delay) // every * every
        return self.base + step if step else None

    def in_memory(self, now: float) -> int | None:
        """The step of the newest image that is complete in memory; None before the first one of this round."""
        return self._newest(now, self.costs.stall, self.costs.memory_steps)

    def at_peers(self, now: float) -> int | None:
        """Of the newest image that is in the memory of other nodes too."""
        if not self.costs.peer_steps:
            return None
        return self._newest(now, self.costs.stall + self.costs.peer, self.costs.peer_steps)

    def on_disk(self, now: float) -> int | None:
        """Of the newest snapshot on the local disks."""
        return self._newest(now, self.costs.stall + self.costs.local, self.durable_steps)

    def uploaded(self, now: float) -> int | None:
        """Of the newest snapshot in the remote tier."""
        delay = self.costs.stall + self.costs.local + self.costs.remote
        return self._newest(now, delay, self.durable_steps * self.remote_every)
