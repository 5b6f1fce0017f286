"""Ending the workers of a node whose supervisor has nobody any more whom it could tell what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from resilient.supervisor.launcher import Launcher
from resilient.supervisor.sources import Sources

_GONE_SECONDS = 30.0  # for killed workers to be gone
_LOOK_SECONDS = 0.05


def end_workers(launcher: Launcher, clock: Callable[[], float] = time.monotonic) -> None:
    """Kill them and wait until they are gone, but not for ever. How they ended is of no interest."""

    def forget_reports() -> None:
        launcher.receive()

    launcher.kill()
    until = clock() + _GONE_SECONDS
    waiting = Sources(lambda: {launcher.connection: forget_reports})
    while launcher.workers and clock() < until:
        launcher.check()
        waiting.handle(_LOOK_SECONDS)
    waiting.close()
