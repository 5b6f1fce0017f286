"""Parents and orphans: dying with one's parent, adopting what lost its own, and ending it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
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


def kill_orphans(keep: Collection[int], *, patience: float = 10.0) -> list[int]:
    """SIGKILL all children but those in ``keep``: what a process that has called :func:`adopt_orphans` was left with.

    Each that dies may leave children of its own to this process, so it looks again until there are none. A group is
    killed at once: no fork in it can get away in between. Children in this process's own session are nobody's orphans,
    because workers and helpers begin sessions of their own: they were started by the shell that has become this
    process, say.

    :param patience: seconds to wait for what is killed. What waits for a disk or a device ends when that answers.
    :returns: the numbers of those that have not ended.
    """
    deadline = time.monotonic() + patience
    while orphans := [pid for pid in children() if pid not in keep and not _in_own_session(pid)]:
        for pid in orphans:
            _kill_with_group(pid)
        gone = [pid for pid in orphans if _is_reaped(pid)]
        for pid in gone:
            remove_torch_shared_memory(pid)
        if not gone:
            if time.monotonic() > deadline:
                return orphans
            time.sleep(0.001)
    return []


def remove_torch_shared_memory(pid: int) -> None:
    """Remove the batches that a killed DataLoader worker was just handing over; torch names them after the process."""
    for path in Path("/dev/shm").glob(f"torch_{pid}_*"):  # noqa: S108  torch's choice of place
        path.unlink(missing_ok=True)


def _in_own_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == os.getsid(0)
    except ProcessLookupError:
        return False


def _kill_with_group(pid: int) -> None:
    """Kill a child, which cannot have been replaced by another process as long as it is not waited for."""
    with suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(pid)
        if group == pid:
            os.killpg(group, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
