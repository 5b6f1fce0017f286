"""The arithmetic of data that is left out: which positions of an epoch remain, and where one goes on.

A position is (epoch, offset). What offsets count is the unit of the data, see :class:`~resilient.policy.lineage.Skip`;
where the order is not ours to know it is one rank's batches from the beginning of the run, all in epoch 0.
"""

from __future__ import annotations

import sys
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from resilient.policy.lineage import Skip

Place = tuple[int, int]
"""Epoch, and offset in it."""
ENDLESS = sys.maxsize
"""The length of an epoch whose end is not known."""


class Kept:
    """What remains of the numbers from ``start`` to ``stop``, when ``gaps`` are taken out: disjoint, in order."""

    def __init__(self, start: int, stop: int, gaps: Iterable[tuple[int, int]]) -> None:
        self._runs: list[range] = []
        for low, high in gaps:
            if low > start:
                self._runs.append(range(start, min(low, stop)))
            start = max(start, high)
        self._runs = [run for run in [*self._runs, range(start, stop)] if run]
        self._firsts = [0, *accumulate(map(len, self._runs))]
        self.size = self._firsts.pop()

    def at(self, index: int) -> int:
        """The number that is the ``index``-th of those that remain."""
        run = bisect_right(self._firsts, index) - 1
        return self._runs[run][index - self._firsts[run]]

    def pick(self, start: int, stop: int, step: int) -> Sequence[int]:
        """The numbers whose places among those that remain are ``range(start, stop, step)``."""
        if start >= stop:
            return range(0)
        run = bisect_right(self._firsts, start) - 1
        first = self._firsts[run]
        if stop - first <= len(self._runs[run]):  # nearly always, and a slice of an array is taken by it at once
            return self._runs[run][start - first : stop - first : step]
        return [self.at(index) for index in range(start, stop, step)]


@dataclass(frozen=True)
class Resolved:
    """Steps whose data was to be left out, and which data that turned out to be."""

    steps: tuple[int, int]
    skip: Skip


@dataclass(frozen=True)
class SkipSet:
    """All data of one unit that is left out.

    :ivar skips: disjoint, in order, none of them empty.
    :ivar resolved: what this round has found out, kept in snapshots so that one taken before the supervisor has heard
        of it does not have it found out again from another position.
    """

    unit: str
    skips: tuple[Skip, ...] = ()
    resolved: tuple[Resolved, ...] = ()

    def joined(self, more: Iterable[Skip]) -> SkipSet:
        """With ``more``, which may overlap; what is of another unit cannot be placed, and is warned of."""
        merged: list[Skip] = []
        for skip in sorted({*self.skips, *more}, key=lambda skip: (skip.start, skip.end)):
            if skip.start >= skip.end:
                continue
            if skip.unit != self.unit:
                warnings.warn(
                    f"data that was left out by {skip.unit} cannot be found again in data that counts {self.unit}, "
                    "and is not left out any more",
                    stacklevel=2,
                )
            elif merged and skip.start <= merged[-1].end:
                merged[-1] = replace(merged[-1], end=max(merged[-1].end, skip.end))
            else:
                merged.append(skip)
        return replace(self, skips=tuple(merged))

    def leave(self, place: Place) -> Place:
        """``place``, or where the data goes on that is left out there."""
        for skip in self.skips:
            if skip.start <= place < skip.end:
                return skip.end
        return place

    def touches(self, epoch: int) -> bool:
        """Whether anything of the epoch may be left out."""
        return any(skip.start[0] <= epoch <= skip.end[0] for skip in self.skips)

    def kept(self, epoch: int, start: int, stop: int) -> Kept:
        """The offsets of an epoch that remain, from ``start`` to ``stop``."""
        gaps = []
        for skip in self.skips:
            if skip.start[0] <= epoch <= skip.end[0]:
                low = skip.start[1] if skip.start[0] == epoch else 0
                gaps.append((low, skip.end[1] if skip.end[0] == epoch else ENDLESS))
        return Kept(start, stop, gaps)

    def to_state(self) -> dict[str, Any]:
        """For a position's ``state_dict``; nothing where nothing is left out, which is nearly always."""
        state: dict[str, Any] = {}
        if self.skips:
            state["skips"] = [skip.to_json() for skip in self.skips]
        if self.resolved:
            state["resolved"] = [[list(found.steps), found.skip.to_json()] for found in self.resolved]
        return state

    def of_state(self, state: Mapping[str, Any]) -> SkipSet:
        """What :meth:`to_state` left in ``state``, in place of what this one has."""
        found = SkipSet(self.unit).joined(map(Skip.from_json, state.get("skips", ())))
        resolved = (
            Resolved((int(first), int(last)), Skip.from_json(skip)) for (first, last), skip in state.get("resolved", ())
        )
        return replace(found, resolved=tuple(resolved))
