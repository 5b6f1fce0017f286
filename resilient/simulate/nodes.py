"""The nodes that stand ready, and those that are being repaired."""

from __future__ import annotations

import heapq

from resilient.simulate.plan import Plan


class Spares:
    """When a group of which nodes have failed is whole again."""

    def __init__(self, plan: Plan) -> None:
        self._swap, self._repair = plan.swap_seconds, plan.repair_seconds
        self._free = [0.0] * plan.spares
        self.whole_at = 0.0

    def lose_node(self, now: float) -> None:
        """A node is taken out. It stands ready again when it is repaired, and may be waited for."""
        heapq.heappush(self._free, now + self._repair)
        self.whole_at = max(self.whole_at, max(now, heapq.heappop(self._free)) + self._swap)

    def wait_for_node(self, now: float, seconds: float) -> None:
        """A node comes back by itself."""
        self.whole_at = max(self.whole_at, now + seconds)

    def others(self, now: float) -> None:
        """The scheduler has given us other machines."""
        self.whole_at = now
