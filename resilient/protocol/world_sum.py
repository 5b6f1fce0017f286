"""The sum of all ranks that :mod:`resilient.protocol.world_view` shows, kept up to date rank by rank.

What a change costs depends on that rank alone, so a leader of very many ranks can take each one's news as it comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.protocol.board import Board, Flag, Word
from resilient.protocol.slot_header import SlotInfo, SlotState

DONE = (Flag.FINISHED, Flag.LEFT_EARLY, Flag.STOPPED_AFTER)
"""What says that a rank has what it needs to leave."""
_DONE_BITS = sum(DONE)


@dataclass(frozen=True)
class World:
    """All ranks together.

    :param arrived: as on a board, where it is the same for all that are not done; else 0.
    :param entered: the furthest step that some rank has begun.
    :param step: that all have completed.
    :param done: all have what they need to leave.
    :param first: ENTERED, MEMORY_PLAN and DURABLE_PLAN of rank 0.
    :param complete: steps of which all have a complete image.
    :param writing: further ones of which each has one, or is writing it.
    """

    arrived: int = 0
    entered: int = 0
    step: int = 0
    done: bool = False
    first: tuple[int, int, int] = (0, 0, 0)
    complete: tuple[int, ...] = ()
    writing: tuple[int, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> World:
        """From its fields, as they come out of JSON: several times in each step."""
        lists = {name: tuple(told[name]) for name in ("first", "complete", "writing")}
        return cls(**{**told, **lists})


@dataclass(frozen=True)
class Part:
    """What one rank contributes.

    :param arrived: None of one that is done.
    :param coming: steps of which it has an image, or is writing it.
    """

    arrived: int | None
    step: int
    entered: int
    plans: tuple[int, int]
    complete: frozenset[int] = frozenset()
    coming: frozenset[int] = frozenset()

    @classmethod
    def of(cls, board: Board, slots: Iterable[SlotInfo]) -> Part:
        """:param slots: looked at after the board: a rank that has passed a step has begun its image before, or never
        will.
        """
        entered = board[Word.ENTERED]  # before what was said of that step
        arrived = None if board[Word.FLAGS] & _DONE_BITS else board[Word.ARRIVED]
        step, plans = board[Word.STEP], (board[Word.MEMORY_PLAN], board[Word.DURABLE_PLAN])
        complete, coming = [], []
        for info in slots:
            if info.state is not SlotState.EMPTY:
                coming.append(info.step)
                if info.state is SlotState.COMPLETE:
                    complete.append(info.step)
        return cls(arrived, step, entered, plans, frozenset(complete), frozenset(coming))


class Tally(dict[int, int]):
    """How many ranks have each value."""

    def replace(self, old: Collection[int], new: Collection[int]) -> None:
        """A rank has other values than before; mostly it has the same."""
        if old == new:
            return
        for value in old:
            self[value] -= 1
            if not self[value]:
                del self[value]
        for value in new:
            self[value] = self.get(value, 0) + 1


class WorldSum:
    """Of the ranks that were put in; the first of them says what is due."""

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}
        self._first: int | None = None
        self._arrived, self._steps, self._entered, self._complete, self._coming = (Tally() for _ in range(5))

    def put(self, rank: int, part: Part) -> None:
        """The rank contributes this from now on."""
        self._replace(self._parts.get(rank), part)
        self._parts[rank] = part
        self._first = rank if self._first is None else min(self._first, rank)

    def remove(self, rank: int) -> None:
        """There is nothing of the rank, or nothing any more."""
        part = self._parts.pop(rank, None)
        if part is None:
            return
        self._replace(part, None)
        if rank == self._first:
            self._first = min(self._parts, default=None)

    def _replace(self, old: Part | None, new: Part | None) -> None:
        tallies = (self._arrived, self._steps, self._entered, self._complete, self._coming)
        for tally, before, after in zip(tallies, _counted(old), _counted(new), strict=True):
            tally.replace(before, after)

    def world(self) -> World:
        """Of at least one rank."""
        assert self._first is not None  # noqa: S101  asked by the caller
        first, count = self._parts[self._first], len(self._parts)
        common = {step for step, ranks in self._complete.items() if ranks == count}
        begun = {step for step, ranks in self._coming.items() if ranks == count}
        return World(
            next(iter(self._arrived)) if len(self._arrived) == 1 else 0,
            max(self._entered),
            min(self._steps),
            not self._arrived,
            (first.entered, *first.plans),
            tuple(sorted(common)),
            tuple(sorted(begun - common)),
        )


def _counted(part: Part | None) -> Sequence[Collection[int]]:
    """The values of a rank that are counted."""
    if part is None:
        return (), (), (), (), ()
    arrived = () if part.arrived is None else (part.arrived,)
    return arrived, (part.step,), (part.entered,), part.complete, part.coming
