"""The indices of a job array, as ``sbatch --array`` takes them: ``0-7``, ``1,3,5-9:2``, ``0-31%4``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from resilient.errors import ConfigurationError

_PART = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+)(?::(?P<step>\d+))?)?")
_MOST = 4_000_000  # SLURM's own upper limit of MaxArraySize; the cluster's is far less


def parse_indices(text: str) -> tuple[list[int], int]:
    """The indices in order, and how many of their jobs may run at a time (0 for any number).

    There are no indices in ``%4``, which is for a sweep, whose runs are counted.

    :raises ConfigurationError: it is none.
    """
    listed, _, limit = text.partition("%")
    problem = ConfigurationError(f"slurm.array={text} is no list of indices", "write 0-7, 1,3,5-9:2, or 0-31%4")
    if (not limit.isdecimal() or not int(limit)) if "%" in text else not listed:
        raise problem
    found: set[int] = set()
    for part in filter(None, listed.split(",")):
        match = _PART.fullmatch(part)
        if match is None:
            raise problem
        first, last, step = int(match["first"]), int(match["last"] or match["first"]), int(match["step"] or 1)
        if last < first or not step or last > _MOST:
            raise problem
        found.update(range(first, last + 1, step))
    return sorted(found), int(limit or 0)


def as_indices(indices: Sequence[int], limit: int) -> str:
    """``0-3,7%2``; the other way round."""
    runs = [
        [index for _, index in group]
        for _, group in groupby(enumerate(sorted(indices)), lambda item: item[1] - item[0])
    ]
    listed = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{listed}%{limit}" if limit else listed
