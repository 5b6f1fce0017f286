"""The processes above this one, up to what SLURM has started: who gets the signals of a job."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from resilient.supervisor.kernel_view import catches
from resilient.supervisor.processes import content, parent

_DAEMON = re.compile(r"slurmstepd: \[\S*\.(\w+)\]")
_MOST = 64


@dataclass(frozen=True)
class Ancestor:
    """A process above this one.

    :param catches: the numbers of those signals that were asked about, and that it has a handler for.
    """

    pid: int
    name: str
    catches: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Line:
    """The ancestors, the nearest first, without SLURM's own.

    :param step: the step that SLURM's daemon has started: ``batch``, or a number with ``srun``; empty without one.
    """

    step: str = ""
    between: tuple[Ancestor, ...] = ()


def above(pid: int, signals: tuple[int, ...], proc: Path = Path("/proc")) -> Line:
    """Who is above the process ``pid``."""
    found: list[Ancestor] = []
    for _ in range(_MOST):
        pid = parent(pid, proc) or 0
        if pid <= 0:
            return Line(between=tuple(found))
        if match := _DAEMON.match(content(proc / str(pid) / "cmdline")):
            return Line(match[1], tuple(found))
        caught = frozenset(number for number in signals if catches(pid, number)) if _is_there(pid) else frozenset()
        found.append(Ancestor(pid, content(proc / str(pid) / "comm").strip(), caught))
    return Line(between=tuple(found))


def _is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110  the short way is clearer
