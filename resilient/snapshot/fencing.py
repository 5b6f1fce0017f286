"""Fencing, in runs of several nodes: which leader's snapshots count.

Each leader reigns for a term, and the terms are numbered. A leader that was cut off from the others and lives on may
still commit what it had begun. Once a later term has gone on from an earlier step, that snapshot belongs to no run any
more: steps of that number are taken again, by others. So it does not count, whenever it appears.

The terms lie in ``nodes/terms`` of the run: ``000007.json`` is the claim of term 7, ``000007.began`` says at which step
that term went on. Where there are none, everything counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from resilient.errors import TermOver
from resilient.protocol.paths import RunPaths
from resilient.protocol.small_file import read_bounded

_CLAIM = re.compile(r"(\d{6,})\.json")
_BEGAN = re.compile(r"(\d{6,})\.began")
_LARGEST = 1 << 16

_known: dict[str, tuple[tuple[int, int, int], int | None]] = {}
"""By path, what was read of it, and of which file that was."""


@dataclass(frozen=True)
class Terms:
    """What is known of the terms of a run.

    :param began: by number, the step at which a term went on, of those that have.
    """

    began: Mapping[int, int] = field(default_factory=dict)

    def count(self, step: int, term: int) -> bool:
        """Whether a snapshot of ``step`` that was committed in ``term`` counts. Of one that no leader committed (term
        0) nothing is said here.
        """
        return not term or not any(later > term and began < step for later, began in self.began.items())

    @property
    def all_count_to(self) -> int | None:
        """Up to this step, every snapshot counts, whoever committed it; None where all do."""
        return min(self.began.values(), default=None)

    @classmethod
    def read(cls, snapshots: Path) -> Terms:
        """Those of the run whose snapshots lie in ``snapshots``.

        What cannot be understood is left out; it is written in one step, so it says nothing yet.

        :raises OSError: the directory cannot be read.
        """
        found: dict[int, int] = {}
        try:
            for entry in os.scandir(RunPaths(snapshots.parent).terms):
                if match := _BEGAN.fullmatch(entry.name):
                    step = _step_in(Path(entry.path))
                    if step is not None:
                        found[int(match[1])] = step
        except FileNotFoundError:
            return cls()
        return cls(found)


def newest_term(snapshots: Path) -> int:
    """Number of the term that was claimed last in this run; 0 where there is none.

    :raises OSError: the directory cannot be read.
    """
    directory = RunPaths(snapshots.parent).terms
    try:
        with suppress(OSError):
            os.utime(directory)  # a client of NFS answers from what it remembers, until it has changed the directory
        claims = [_CLAIM.fullmatch(path.name) for path in directory.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(claim[1]) for claim in claims if claim), default=0)


def require_newest(snapshots: Path, term: int) -> None:
    """Ask right before something is committed in ``term``.

    :raises TermOver: a later term was claimed.
    """
    newest = newest_term(snapshots)
    if newest != term:
        raise TermOver(f"term {term} is over: the newest one is {newest}", "nothing: another node leads the run")


def _step_in(path: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        stats = path.stat()
        identity = stats.st_ino, stats.st_mtime_ns, stats.st_size
        if (known := _known.get(str(path))) is not None and known[0] == identity:
            return known[1]
        step = int(json.loads(read_bounded(path, _LARGEST) or b"")["step"])
        _known[str(path)] = identity, step
        return step
    return None
