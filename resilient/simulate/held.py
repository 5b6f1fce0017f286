"""Which snapshots there are, in which tier, and how much was written for them."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.policy.events import Tier
from resilient.simulate.rounds import Round

_KEPT = 2  # of each durable tier: the newest, and one to go back to where that is damaged


@dataclass
class Held:
    """What could be resumed from.

    :ivar memory: the step of the newest image that all groups hold.
    :ivar peer: of the newest that they all hold and that is in the memory of other nodes as well.
    :ivar local: steps on the local disks, newest first.
    :ivar remote: likewise in the remote tier.
    :ivar rejected: how many were found to be damaged.
    :ivar written: snapshots that were written to the local disks, and to the remote tier.
    """

    memory: int | None = None
    peer: int | None = None
    local: tuple[int, ...] = ()
    remote: tuple[int, ...] = ()
    rejected: int = 0
    written: tuple[int, int] = (0, 0)

    def take(self, steps: Round, now: float) -> None:
        """A round has come to its end, and these are its snapshots."""
        image, disk, uploaded = steps.in_memory(now), steps.on_disk(now), steps.uploaded(now)
        self.memory = self.memory if image is None else image
        copied = steps.at_peers(now)
        self.peer = self.peer if copied is None else copied
        every, far = steps.durable_steps, steps.durable_steps * steps.remote_every
        self.local = _newest(disk, every, steps.base, self.local)
        self.remote = _newest(uploaded, far, steps.base, self.remote)
        local = 0 if disk is None else (disk - steps.base) // every
        remote = 0 if uploaded is None else (uploaded - steps.base) // far
        self.written = (self.written[0] + local, self.written[1] + remote)

    def lose(self, survives: Tier) -> None:
        """A node is gone, and with it its part of every snapshot in a tier nearer than ``survives``."""
        if survives is not Tier.MEMORY:
            self.memory = None
        if survives is Tier.REMOTE:
            self.local = ()

    def forget(self) -> None:
        """What is in memory, wherever, is of no use."""
        self.memory = self.peer = None

    def lose_all(self) -> None:
        """All nodes are gone, and what they had."""
        self.forget()
        self.local = ()

    def reject(self, step: int, tier: Tier) -> None:
        """It was damaged, and is set aside."""
        self.rejected += 1
        if tier is Tier.LOCAL:
            self.local = tuple(held for held in self.local if held != step)
        else:
            self.remote = tuple(held for held in self.remote if held != step)

    def flush(self, *, local: bool, remote: bool) -> None:
        """What is in memory was made durable, as far as there was time."""
        step = self.memory
        if step is None:
            return
        if local and step not in self.local:
            self.local = (step, *self.local)[:_KEPT]
            self.written = (self.written[0] + 1, self.written[1])
        if remote and step not in self.remote:
            self.remote = (step, *self.remote)[:_KEPT]
            self.written = (self.written[0], self.written[1] + 1)

    @property
    def newest_durable(self) -> int | None:
        return max((*self.local, *self.remote), default=None)


def _newest(newest: int | None, every: int, base: int, older: tuple[int, ...]) -> tuple[int, ...]:
    if newest is None:
        return older
    before = (newest - every,) if newest - every > base else ()
    return (newest, *before, *(step for step in older if step <= base))[:_KEPT]
