"""Parents and orphans: dying with one's parent, adopting what lost its own, and ending it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when the thread that forked it ends.

    :param parent: the expected parent; if it is gone already, the signal would never come, so this process ends at
        once.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def outlive_parent() -> None:
    """Take :func:`die_with_parent` back."""
    _libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none can escape."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Process numbers of this process's children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def kill_orphans(keep: Collection[int]) -> None:
    """SIGKILL all children but those in ``keep``: what a process that has called :func:`adopt_orphans` was left with.

    Each that dies may leave children of its own to this process, so it looks again until there are none.
    """
    while orphans := [pid for pid in children() if pid not in keep]:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            remove_torch_shared_memory(pid)


def remove_torch_shared_memory(pid: int) -> None:
    """Remove the batches that a killed DataLoader worker was just handing over; torch names them after the process."""
    for path in Path("/dev/shm").glob(f"torch_{pid}_*"):  # noqa: S108  torch's choice of place
        path.unlink(missing_ok=True)
