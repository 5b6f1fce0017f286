"""What a supervisor has left behind: found by a mark in the environment, for nothing else ties it to its run.

A supervisor owns its tree of processes, and its forkserver ends it when the supervisor is killed. When both are killed
at one moment, a program that the script had started may live on. The forkserver, and with it everything that descends
from it, has a variable that names the run and the supervisor; whoever supervises the run next kills what bears the
mark of one that is gone. A program that was started with an environment of its own is not found.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from resilient.protocol.lock import Owner

MARK = "RESILIENT_MARK"
_PROC = Path("/proc")


def mark(identity: str, owner: Owner) -> str:
    """The value of the variable.

    :param identity: of the run, which no other run has had.
    """
    return f"{identity}:{owner.host}:{_namespace()}:{owner.pid}:{owner.started:.2f}"


def owner_of(value: str, identity: str) -> Owner | None:
    """The supervisor that a mark names; None if it is not of this run, or of other processes than can be seen here."""
    parts = value.rsplit(":", 3)
    with suppress(ValueError, IndexError):
        run, _, host = parts[0].partition(":")
        if run == identity and parts[1] == _namespace():
            return Owner(int(parts[2]), float(parts[3]), host)
    return None


def find_strays(identity: str, host: str) -> list[int]:
    """Processes that bear the mark of a supervisor of this run on this host that is gone."""
    spared = _self_and_ancestors()
    return [pid for pid in _processes() if pid not in spared and _is_stray(pid, identity, host)]


def kill_strays(identity: str, host: str, patience: float = 5.0) -> list[int]:
    """SIGKILL them, and look again until there are none; returns their numbers.

    :param patience: seconds after which it looks no more.
    """
    deadline, killed = time.monotonic() + patience, dict[int, None]()
    while (found := find_strays(identity, host)) and time.monotonic() < deadline:
        for pid in found:
            if _kill(pid, identity, host):
                killed[pid] = None
        time.sleep(0.005)
    return list(killed)


def _kill(pid: int, identity: str, host: str) -> bool:
    """Kill the process if it still is the one: the handle stays with the process, its number might not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel without such handles
        handle = None
    try:
        if not _is_stray(pid, identity, host):
            return False
        if handle is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _is_stray(pid: int, identity: str, host: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:  # gone, or another user's
        return False
    for item in environment.split(b"\0"):
        name, _, value = item.partition(b"=")
        if name == MARK.encode():
            owner = owner_of(value.decode(errors="replace"), identity)
            return owner is not None and owner.host == host and not owner.is_alive(host)
    return False


def _processes() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdecimal()]


def _self_and_ancestors() -> set[int]:
    """Somebody may start the run again from a shell that a worker had started."""
    found, pid = set[int](), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found


def _namespace() -> str:
    """Numbers of processes mean something in one namespace only: a container has others."""
    try:
        return str((_PROC / "self" / "ns" / "pid").stat().st_ino)
    except OSError:
        return ""
