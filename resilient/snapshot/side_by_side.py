"""Several reads at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

STREAMS = 4
"""How many: one alone fills neither a network nor, while it hashes what it has read, a disk."""


def side_by_side(reads: Iterable[Callable[[], object]]) -> None:
    """Do all of them. When one fails, its error is raised, and those that have not begun are left out."""
    with ThreadPoolExecutor(STREAMS, "resilient-read") as pool:
        begun = [pool.submit(read) for read in reads]
        try:
            for read in begun:
                read.result()
        finally:
            for read in begun:
                read.cancel()
