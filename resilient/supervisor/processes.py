"""The worker's tree of processes, read from ``/proc`` at little cost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PIECE = 1 << 16
_MOST = 4096  # processes of one tree
_LONGEST = 400  # characters of a command line
_SECRET = re.compile(r"(?i)((?:token|key|secret|password|passwd|credential)[\w-]*[= ])\S+")


@dataclass(frozen=True)
class ProcessRecord:
    """One process as an incident shows it."""

    pid: int
    parent: int
    state: str
    rss: int
    command: str


def tree(pid: int, proc: Path = Path("/proc"), *, threads: bool = False) -> list[int]:
    """``pid`` and what descends from it, while it lives.

    :param threads: look for children of all its threads, not only of the first one.
    """
    found, at = [pid], 0
    while at < len(found) < _MOST:
        tasks = proc / str(found[at]) / "task"
        for thread in thread_numbers(found[at], proc) if threads else [found[at]]:
            found += [int(child) for child in content(tasks / str(thread) / "children").split()]
        at += 1
    return found


def parent(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Whose child a process is; None when it is gone."""
    fields = _after_the_name(pid, proc)
    return int(fields[1]) if len(fields) > 1 else None


def parents(proc: Path = Path("/proc")) -> dict[int, int]:
    """The parent of every process that is to be seen."""
    found = {}
    with suppress(OSError):
        for entry in os.scandir(proc):
            if entry.name.isdecimal() and (of := parent(int(entry.name), proc)) is not None:
                found[int(entry.name)] = of
    return found


def below(roots: Iterable[int], parents: Mapping[int, int]) -> list[int]:
    """What descends from ``roots``, without them."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found, waiting = list[int](), list(roots)
    known = set(waiting)
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), ()) if child not in known]
        known.update(fresh)
        found += fresh
        waiting += fresh
    return found


def resident(pid: int, proc: Path = Path("/proc")) -> int:
    """Resident bytes of one process; 0 when it is gone."""
    fields = content(proc / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def available(proc: Path = Path("/proc")) -> int | None:
    """Bytes of memory that the machine could still give."""
    for line in content(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def describe(pid: int, proc: Path = Path("/proc")) -> ProcessRecord | None:
    """What can be said of one process, without what looks like a secret on its command line."""
    stat = _after_the_name(pid, proc)
    if len(stat) < 2:
        return None
    command = content(proc / str(pid) / "cmdline").replace("\0", " ").strip()[:_LONGEST]
    return ProcessRecord(pid, int(stat[1]), stat[0], resident(pid, proc), _SECRET.sub(r"\1…", command))


def thread_numbers(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Numbers of the threads, the main one first."""
    try:
        # a glob fails where a process ends meanwhile
        return sorted(map(int, os.listdir(proc / str(pid) / "task")))  # noqa: PTH208
    except (OSError, ValueError):
        return []


def _after_the_name(pid: int, proc: Path) -> list[str]:
    """State, parent and so on; the name before them may hold anything."""
    return content(proc / str(pid) / "stat").rpartition(")")[2].split()


def content(path: Path | str) -> str:
    """What a file of the kernel says, or nothing: the process may be gone, or not ours to look at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # many are read each second: no file object for each
    except (OSError, ValueError):
        return ""
    pieces = []
    try:
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode(errors="replace")
