"""Which snapshot to resume from: the newest state, from the nearest tier that holds it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from resilient.policy.events import SnapshotsListed, Tier


@dataclass(frozen=True)
class Source:
    """A snapshot and the tier to take it from."""

    step: int
    tier: Tier


_NEAREST_FIRST = tuple(Tier)


def choose_source(
    listed: SnapshotsListed, rejected: Collection[Source] = (), not_after: int | None = None
) -> Source | None:
    """The newest snapshot; at equal steps the nearest tier. None when there is nothing to resume from.

    :param rejected: copies that have failed verification, and are not tried a second time.
    :param not_after: snapshots of later steps are off the lineage.
    """
    candidates = durable_sources(listed)
    for step, tier in ((listed.memory_step, Tier.MEMORY), (listed.peer_step, Tier.PEER)):
        if step is not None:
            candidates.append(Source(step, tier))
    sound = [
        source for source in candidates if source not in rejected and (not_after is None or source.step <= not_after)
    ]
    return max(sound, key=lambda source: (source.step, -_NEAREST_FIRST.index(source.tier)), default=None)


def durable_sources(listed: SnapshotsListed) -> list[Source]:
    """All that is committed, in whichever tier."""
    local = [Source(step, Tier.LOCAL) for step in listed.durable_steps]
    return local + [Source(step, Tier.REMOTE) for step in listed.remote_steps]
