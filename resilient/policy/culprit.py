"""Which rank a hung group waits for: a pure function over what is known of each of them.

All ranks of a group fall silent together, for they wait for each other. The one that does not wait is the one to name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Condition(str, Enum):
    """What the kernel says of a process that does not move on."""

    RUNNING = "running"  # or asleep, which is the same to us
    STOPPED = "stopped by a signal (SIGSTOP)"
    TRACED = "held by a debugger"
    UNINTERRUPTIBLE = "waiting in the kernel for a device (state D)"
    MISSING = "not there yet"


@dataclass(frozen=True)
class RankAccount:
    """What was seen of a rank while stacks were written.

    :param where: the innermost frames of its main thread, and of what it waits for, in one line.
    :param waits: whether its stack shows it waiting for other ranks; None when there is no stack.
    """

    rank: int
    condition: Condition = Condition.RUNNING
    where: str = ""
    waits: bool | None = None


@dataclass(frozen=True)
class Silent:
    """A rank of a group in which some are hung: its account, and how far it had come.

    :param since: when it last moved on.
    """

    account: RankAccount
    step: int
    since: float


_CLEARLY_EARLIER = 1.0  # seconds between two ranks' last signs of life that tell them apart
_HELD = (Condition.STOPPED, Condition.TRACED, Condition.UNINTERRUPTIBLE)


def find_culprit(silent: Sequence[Silent]) -> RankAccount | None:
    """The rank that the others wait for, or None when it is the whole group as far as anybody can tell.

    A process that the kernel holds comes first; then the fewest steps; then what the stacks tell; then who has clearly
    been silent for longest.
    """
    for condition in _HELD:
        if held := [one for one in silent if one.account.condition is condition]:
            return min(held, key=lambda one: (one.step, one.since)).account
    least = min((one.step for one in silent), default=0)
    behind = [one for one in silent if one.step == least]
    busy = [one for one in behind if one.account.waits is False]
    if busy and len(busy) < len(behind):
        behind = busy
    if len(behind) == 1:
        return behind[0].account
    behind.sort(key=lambda one: one.since)
    if behind and behind[1].since - behind[0].since > _CLEARLY_EARLIER:
        return behind[0].account
    return None
