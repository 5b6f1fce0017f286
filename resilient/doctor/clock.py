"""The clocks: that of the wall, and the one that only goes forwards."""

from __future__ import annotations

import time

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, ok, problem, warning
from resilient.doctor.world import World

_EARLIEST = 1_704_067_200  # the beginning of 2024: this was written later
_PAUSE = 0.02  # seconds


def judge_wall(now: float) -> Finding:
    if now < _EARLIEST:
        when = time.strftime("%Y-%m-%d", time.gmtime(now))
        return warning(
            f"this machine thinks that it is {when}: certificates of a remote tier are refused, and times in the "
            "journal make no sense",
            "ask for the clock to be set (NTP)",
        )
    return ok("the clock is set")


def judge_monotonic(passed: float, slept: float) -> Finding:
    """Of the seconds that the monotonic clock has counted in a pause of ``slept``."""
    if passed < slept:
        return problem(
            f"in a pause of {slept} s the monotonic clock has gone on by {passed:.3f} s: hangs and deadlines are told "
            "by it",
            "report it to whoever runs this machine; its kernel or hypervisor is broken",
        )
    return ok("the monotonic clock goes forwards")


def _monotonic(_world: World) -> Finding:
    before = time.monotonic()
    time.sleep(_PAUSE)
    return judge_monotonic(time.monotonic() - before, _PAUSE)


CHECKS = (
    Check("clock.wall", "whether the clock is set", lambda _world: judge_wall(time.time())),
    Check("clock.monotonic", "the clock that hangs are told by", _monotonic),
)
