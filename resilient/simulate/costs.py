"""What snapshots cost, from sizes and bandwidths; all in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resilient.policy.events import Tier
from resilient.policy.interval import DurableCost, Pace
from resilient.simulate.plan import GB, Plan

_MOST_STEPS = 1000  # between two memory snapshots, whatever they cost
_LEAST_SECONDS, _MOST_SECONDS = 30.0, 3600.0  # of the interval that a run chooses; the defaults of section `snapshot`
_LEAST_PEER_SECONDS = 1.0  # between two copies to other nodes


@dataclass(frozen=True)
class Costs:
    """Of one snapshot.

    :param stall: training stands still while the state is copied to the memory of the hosts.
    :param local: until it is on the local disks.
    :param remote: from there until it is in the remote tier.
    :param training: what a durable snapshot costs the training, beside the stall.
    :param memory_steps: steps between two memory snapshots.
    :param peer: until a memory snapshot is in the memory of other nodes as well.
    :param peer_steps: steps between two that are copied there; 0 for none.
    :param copying: what such a copy costs the training.
    """

    stall: float
    local: float
    remote: float
    training: float
    memory_steps: int
    peer: float = 0.0
    peer_steps: int = 0
    copying: float = 0.0

    @classmethod
    def of(cls, plan: Plan) -> Costs:
        """The state is spread evenly over all GPUs, and each node writes its own part."""
        size = plan.snapshot_bytes / GB
        stall = size / plan.gpus / plan.device_gbs
        local = size / plan.nodes / plan.local_gbs
        remote = size / min(plan.remote_gbs, plan.nodes * plan.remote_node_gbs)
        training = local + remote if plan.blocking else plan.slowdown * (local + remote)
        pace = Pace().stepped(plan.step_seconds).stalled(stall)
        memory_steps = pace.memory_interval(plan.overhead, _MOST_STEPS)
        if plan.gpus <= plan.gpus_per_node or not plan.peer_gbs:
            return cls(stall, local, remote, training, memory_steps)
        peer = size / plan.nodes / plan.peer_gbs
        seconds = max(peer / plan.peer_share, _LEAST_PEER_SECONDS)
        images = math.ceil(seconds / (memory_steps * plan.step_seconds))
        return cls(stall, local, remote, training, memory_steps, peer, images * memory_steps, plan.slowdown * peer)

    def restore(self, tier: Tier) -> float:
        """To bring a snapshot into memory. Where the local disks are read, or the remote tier, all of them are."""
        return {Tier.MEMORY: 0.0, Tier.PEER: self.peer, Tier.LOCAL: self.local, Tier.REMOTE: self.remote}[tier]

    def durable_interval(self, failure_seconds: float, restart_seconds: float) -> float:
        """What a run chooses by itself, with the rule that it uses."""
        cost = DurableCost().add(self.training + self.stall, self.stall + self.local)
        return cost.interval(failure_seconds, restart_seconds, _LEAST_SECONDS, _MOST_SECONDS)
