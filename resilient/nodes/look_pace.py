"""How often it is looked at what the workers of this node show: they write into memory, and nobody is told of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from resilient.protocol.bell import SPACING, Bell
from resilient.supervisor.memory import RunMemory

_SHORTEST, _LONGEST = 0.004, 0.02  # seconds
_FRACTION = 0.5
_RESTING_SECONDS = 0.05


class LookPace:
    """The longer nothing has changed, the longer until the next look.

    A change is seen late by half of the time since the one before, at the most. So what a rank shows at the beginning
    of a step is known on all nodes before the step is over, and a long step is not looked at hundreds of times.

    Workers that have rung in this round (:mod:`resilient.protocol.bell`) will do so when they begin the next step.
    Until then there is nothing to see but the end of the image that is being written, and steps of next to no time;
    then there is rest.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = clock()
        self._bell: Bell | None = None
        self._rings = False
        self._rung = -math.inf
        self._memory: RunMemory | None = None

    def watch(self, memory: RunMemory | None) -> None:
        """Have the workers that have this memory ring from now on; None where there are none."""
        self._memory = memory
        self.begin_round()
        if self._bell is None and memory is not None:
            self._bell = Bell.create(memory.directory)

    def begin_round(self) -> None:
        """It remains to be seen whether its workers ring; those of earlier ones are gone."""
        if self._bell is not None:
            self._bell.hear()
        self._rings = False

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        return {} if self._bell is None else {self._bell: self._hear}

    def _hear(self) -> None:
        assert self._bell is not None  # noqa: S101  it is what was heard
        if self._bell.hear():
            self._rings, self._rung = True, self._clock()

    def changed(self) -> None:
        """There was news in this look."""
        self._changed = self._clock()

    @property
    def seconds(self) -> float:
        """Until the next one."""
        if self._rings and self._memory is not None and not _is_writing(self._memory):
            heard = self._clock() - self._rung
            return _RESTING_SECONDS if heard >= SPACING else SPACING
        return min(max(_FRACTION * (self._clock() - self._changed), _SHORTEST), _LONGEST)

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None


def _is_writing(memory: RunMemory) -> bool:
    """Whether a rank of this node is taking an image."""
    return any(slot.may_be_writing for rank in memory.ranks for slot in memory.arenas[rank].slots)
