"""The worker's tree of processes, read from ``/proc`` at little cost."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
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
        for thread in _names(tasks) if threads else [str(found[at])]:
            found += [int(child) for child in _text(tasks / thread / "children").split()]
        at += 1
    return found


def resident(pid: int, proc: Path = Path("/proc")) -> int:
    """Resident bytes of one process; 0 when it is gone."""
    fields = _text(proc / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def available(proc: Path = Path("/proc")) -> int | None:
    """Bytes of memory that the machine could still give."""
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def describe(pid: int, proc: Path = Path("/proc")) -> ProcessRecord | None:
    """What can be said of one process, without what looks like a secret on its command line."""
    stat = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
    if len(stat) < 2:
        return None
    command = _text(proc / str(pid) / "cmdline").replace("\0", " ").strip()[:_LONGEST]
    return ProcessRecord(pid, int(stat[1]), stat[0], resident(pid, proc), _SECRET.sub(r"\1…", command))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory), key=int)  # noqa: PTH208  a glob fails where a process ends meanwhile
    except (OSError, ValueError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):
        return ""
