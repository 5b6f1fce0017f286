"""Processes that lost their parent below us: being a subreaper, the supervisor has become their parent, and ends them.

In the usual way of things the forkserver does this. Only when it is itself killed does what its workers had started
fall to us.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


def kill_orphans(keep: Collection[int]) -> None:
    """SIGKILL all children of this process but those in ``keep``, and theirs as they arrive, until none is left."""
    while orphans := [pid for pid in _children() if pid not in keep]:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
