"""Keeping a job off nodes that computed wrong results, for as long as they are distrusted.

SLURM keeps a job's list of excluded nodes over requeues, and knows nothing of an expiry. What we have put on that list
is in the journal, so that it can be taken off again, and what the user has put there stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from resilient.protocol.distrusted import distrusted
from resilient.protocol.paths import RunPaths
from resilient.slurm import nodelist

EXCLUDED = "slurm excluded"  # name of the journal's entries


def excluded_by_us(entries: Iterable[Mapping[str, Any]], job: int) -> frozenset[str]:
    """The nodes that the run last had this job keep off."""
    found: frozenset[str] = frozenset()
    for entry in entries:
        if entry.get("name") == EXCLUDED and entry.get("job") == job and isinstance(entry.get("nodes"), list):
            found = frozenset(map(str, entry["nodes"]))
    return found


def to_exclude(listed: str, ours: Collection[str], distrusted: Collection[str]) -> str | None:
    """The list that the job should have; None if it has it.

    :param listed: the one it has, as SLURM writes it.
    :param ours: what of it was put there by us.
    :param distrusted: what should be there now.
    """
    try:
        names = nodelist.expand(listed)
    except ValueError:  # better one node too many than a list that we do not understand overwritten
        return None
    wanted = [*(name for name in names if name not in ours), *distrusted]
    return None if set(wanted) == set(names) else nodelist.join(wanted)


def distrusted_hosts(
    paths: RunPaths, host: str, *, wall: Callable[[], float] = time.time
) -> Callable[[str], list[str]]:
    """Reads which nodes are distrusted at the time of the call.

    :param host: what this machine calls itself.
    :returns: a function of what SLURM calls this machine.
    """

    def read(node: str) -> list[str]:
        try:
            hosts = [found.host for found in distrusted(paths, wall())]
        except (OSError, ValueError):  # the supervisor has said so at its start
            return []
        return [node if node and name == host else name for name in hosts]

    return read
