"""What to make durable when time is short.

A preemption gives seconds. When the workers are gone, one snapshot may be half written and a newer one lie in memory;
which of them can still become durable depends on how fast the disk has turned out to be. A snapshot that is durable
is worth more than a newer one that is not, and of two that can be durable the newer one is worth more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Writing:
    """A snapshot on its way to disk; sizes in bytes."""

    step: int
    size: int
    written: int = 0

    @property
    def left(self) -> int:
        return max(0, self.size - self.written)


@dataclass(frozen=True)
class FlushPlan:
    """What to write, in this order, and why.

    :param abandon: cut off what is being written now.
    :param fits: by the measured rate, all of it is durable in time.
    """

    steps: tuple[int, ...]
    abandon: bool
    reason: str
    fits: bool = True


def plan_flush(newest: Writing | None, current: Writing | None, rate: float, remaining: float = math.inf) -> FlushPlan:
    """Choose what to make durable.

    :param newest: the newest image in memory if it is not durable, or None.
    :param current: what is being written now, or None.
    :param rate: bytes per second that the disk has been seen to take; 0 if nothing is known.
    :param remaining: seconds until the run is killed from outside; infinite if nobody will.
    """
    if newest is None and current is None:
        return FlushPlan((), abandon=False, reason="everything in memory is durable")
    if newest is None or (current is not None and current.step == newest.step):
        assert current is not None  # noqa: S101  one of them is there
        return _alone(current, rate, remaining, "it is being written already")
    if current is None:
        return _alone(newest, rate, remaining, "it is the newest")
    return _of_two(newest, current, rate, remaining)


def _alone(only: Writing, rate: float, remaining: float, why: str) -> FlushPlan:
    needed = _seconds(only.left, rate)
    if needed is None or needed <= remaining:
        return FlushPlan((only.step,), abandon=False, reason=why)
    reason = f"{why}, though {only.left} bytes need {needed:.1f} s at the measured rate and {remaining:.1f} s are left"
    return FlushPlan((only.step,), abandon=False, reason=reason, fits=False)


def _of_two(newest: Writing, current: Writing, rate: float, remaining: float) -> FlushPlan:
    both, only_newest, only_current = (current.step, newest.step), (newest.step,), (current.step,)
    if math.isinf(remaining):
        return FlushPlan(both, abandon=False, reason="there is time for both")
    for_current, for_newest = _seconds(current.left, rate), _seconds(newest.left, rate)
    if for_current is None or for_newest is None:  # a disk that has taken nothing yet will not get to a second one
        return FlushPlan(only_newest, abandon=True, reason="the disk's speed is not known, so the newest is all we try")
    told = (
        f"{remaining:.1f} s are left, step {current.step} needs {for_current:.1f} s more, "
        f"step {newest.step} {for_newest:.1f} s"
    )
    if for_current + for_newest <= remaining:
        return FlushPlan(both, abandon=False, reason=f"there is time for both: {told}")
    if for_newest <= remaining:
        return FlushPlan(only_newest, abandon=True, reason=f"the newest fits if it is written at once: {told}")
    if for_current <= remaining:
        return FlushPlan(only_current, abandon=False, reason=f"only what is being written already fits: {told}")
    reason = f"neither fits, the nearer one is tried: {told}"
    if for_current <= for_newest:
        return FlushPlan(only_current, abandon=False, reason=reason, fits=False)
    return FlushPlan(only_newest, abandon=True, reason=reason, fits=False)


def _seconds(size: int, rate: float) -> float | None:
    return size / rate if rate > 0 else None
