"""Settings of peer memory: copies of memory snapshots in the memory of other nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resilient.errors import ConfigurationError
from resilient.protocol.settings import SnapshotSettings

_LEAST = (("every_seconds", 0.0), ("timeout_seconds", 0.1))
_LEAST_RATE = float(1 << 20)  # slower, and one side would take the other for one that hangs


@dataclass(frozen=True)
class PeerSettings:
    """The section ``peer``: in a run of several nodes, memory snapshots are copied to other nodes in the background, so
    that the loss of a node costs some steps and not all since the last durable snapshot. Training never waits for it.

    Each rank's memory then takes one slot more than ``snapshot.slots``, on its own node, because the image that was
    copied last stays until the next one is complete; and on each node that has its copy, room for two images.

    :param enabled: copy them at all.
    :param copies: how many other nodes have a copy of each image; so many nodes can be lost at the same time.
    :param every_seconds: copy a snapshot so many seconds after the last that was copied.
    :param every_steps: copy one so many steps after the last that was copied. With both 0, as often as ``share``
        allows; with both set, when either is due.
    :param share: of the time that may be spent on copying, at the most, where nothing else says how often; and not more
        than once a second.
    :param cpu_share: of the time of a node's processors that copying may take, at the most, likewise: with few of them
        and much to copy, training would be slower for it.
    :param bytes_per_second: that a node receives no faster than this, to leave the network to training; 0 for no limit.
    :param timeout_seconds: a node that neither sends nor receives anything for so long is not waited for any longer.
    """

    enabled: bool = True
    copies: int = 1
    every_seconds: float = 0.0
    every_steps: int = 0
    share: float = 0.1
    cpu_share: float = 0.01
    bytes_per_second: float = 0.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, least in _LEAST:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= least):
                raise ConfigurationError(f"peer.{name} must be at least {least:g}, not {getattr(self, name)}")
        if self.copies < 1:
            raise ConfigurationError(f"peer.copies must be at least 1, not {self.copies}", "or set peer.enabled=false")
        if self.every_steps < 0:
            raise ConfigurationError(f"peer.every_steps must be at least 0, not {self.every_steps}")
        for name in ("share", "cpu_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigurationError(f"peer.{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if self.bytes_per_second != 0 and not _LEAST_RATE <= self.bytes_per_second < math.inf:
            raise ConfigurationError(
                f"peer.bytes_per_second must be 0, for no limit, or at least {_LEAST_RATE:g}, "
                f"not {self.bytes_per_second}"
            )

    def slots(self, snapshot: SnapshotSettings, nodes: int) -> int:
        """How many memory slots each rank has, in a run of so many nodes."""
        return snapshot.slots + (self.enabled and nodes > 1)
