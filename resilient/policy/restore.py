"""Which snapshot to resume from: the newest state, from the nearest tier that holds it."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.policy.events import SnapshotsListed, Tier


@dataclass(frozen=True)
class Source:
    """A snapshot and the tier to take it from."""

    step: int
    tier: Tier


def choose_source(listed: SnapshotsListed) -> Source | None:
    """The newest snapshot; at equal steps the nearer tier. None when there is nothing to resume from."""
    candidates = [Source(step, Tier.LOCAL) for step in listed.durable_steps]
    if listed.memory_step is not None:
        candidates.append(Source(listed.memory_step, Tier.MEMORY))
    return max(candidates, key=lambda source: (source.step, source.tier is Tier.MEMORY), default=None)
