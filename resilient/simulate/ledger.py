"""Where the time went: every second of the simulation in one bucket."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum


class Bucket(str, Enum):
    """What a second was spent on."""

    TRAINING = "training"
    STALL = "snapshot stall"
    DURABLE = "making durable"
    COPYING = "copying to other nodes"
    LOST = "lost steps"
    DETECTION = "detection"
    CLEARING = "clearing"
    REPLACEMENT = "replacement"
    WAITING = "wait before relaunch"
    RESTORE = "restore"
    LAUNCH = "launch"
    STOPPING = "stopping"
    PREEMPTED = "preempted"
    ENDED = "after the end"


_NOBODYS_FAULT = frozenset({Bucket.TRAINING, Bucket.STALL, Bucket.DURABLE, Bucket.COPYING, Bucket.ENDED})


class Ledger:
    """Seconds by bucket, and of those that were lost by cause."""

    def __init__(self) -> None:
        self.buckets: dict[Bucket, float] = dict.fromkeys(Bucket, 0.0)
        self.causes: dict[str, float] = defaultdict(float)

    def spend(self, bucket: Bucket, seconds: float, cause: str) -> None:
        """So many seconds more; the cause counts where they were lost for one."""
        self.buckets[bucket] += seconds
        if bucket not in _NOBODYS_FAULT and seconds > 0:
            self.causes[cause] += seconds

    def discard(self, seconds: float, cause: str) -> None:
        """Training that counted so far has to be done again."""
        self.buckets[Bucket.TRAINING] -= seconds
        self.spend(Bucket.LOST, seconds, cause)
