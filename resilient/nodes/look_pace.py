"""When it is looked at what the workers of this node show: they write into memory, and nobody is told of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from resilient.protocol.bell import Bell, Ring
from resilient.protocol.board import Word
from resilient.supervisor.memory import RunMemory

_SHORTEST, _LONGEST = 0.004, 0.02  # seconds
_FRACTION = 0.5
_PART = 8  # of a step for which what is begun in it may be unknown to the other nodes
_RESTING_SECONDS = 0.25


class LookPace:
    """What a rank shows at the beginning of a step is known on all nodes before the step is over, and a long step is
    not looked at hundreds of times.

    Workers that have rung in this round (:mod:`resilient.protocol.bell`) will do so again. Those of a node begin a step
    at nearly the same time, and their images are complete soon after, so all that is looked at together, a small part
    of a step after the first ring; but at once where somebody waits for it. What is heard from other nodes has waited
    there, and waits here only where there was a look just before. Until the next ring there is rest: nothing that ranks
    agree on changes without one.

    Of others nothing is heard: the longer nothing has changed, the longer until the next look. A change is seen late by
    half of the time since the one before, at the most.
    """

    def __init__(self, clock: Callable[[], float], *, glance_seconds: float = math.inf) -> None:
        """:param glance_seconds: so often there is a look at the boards alone, for what nobody rings for."""
        self._clock = clock
        self._glance_seconds = min(glance_seconds, _RESTING_SECONDS)
        self._bell: Bell | None = None
        self._memory: RunMemory | None = None
        self._begin()

    def _begin(self) -> None:
        # The next look: when to be awake for it, since when it may be had by who is awake for something else, and since
        # when it is one at the images too.
        self._changed = self._next = self._early = self._whole = self._clock()
        self._looked = -math.inf
        self._rings = False
        self._entered, self._entered_at = 0, math.inf  # the furthest step that has been begun here, and when
        self._later = 0.0  # seconds for which what is not waited for may wait

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
            self._bell.listen()
        self._begin()

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        return {} if self._bell is None else {self._bell: self._hear}

    def _hear(self) -> None:
        assert self._bell is not None  # noqa: S101  it is what was heard
        rung = self._bell.hear()
        if rung is not Ring.NOTHING:
            self._rings = True
            now = self._clock()
            self._look_at(now if rung is Ring.WAITING else max(now + self._later, self._looked + _SHORTEST))

    def heard(self, *, waits: bool = True) -> None:
        """Another node has said something.

        :param waits: somebody stands still until it is known.
        """
        self._look_at(-math.inf if waits else self._looked + max(self._later, _SHORTEST))

    def _look_at(self, moment: float) -> None:
        self._next = self._early = self._whole = min(self._next, moment)

    @property
    def seconds(self) -> float:
        """Until the next look."""
        return max(0.0, self._next - self._clock())

    def due(self) -> bool:
        """Whether it is time to look; whoever is told so does, and says so."""
        if self._clock() < self._early:
            return False
        if self._bell is not None and self._bell.listen() is not Ring.NOTHING:
            self._rings = True
        return True

    @property
    def is_glance(self) -> bool:
        """Whether it is enough, this time, to look at the boards."""
        return self._clock() < self._whole

    def looked(self, *, changed: bool) -> None:
        """:param changed: there was news in this look."""
        now = self._looked = self._clock()
        if now >= self._whole:
            self._whole = now + _RESTING_SECONDS
        if changed:
            self._changed = now
        if self._rings and self._memory is not None:
            self._look_at_steps(self._memory, now)
        if self._memory is None or self._rings:
            self._next, self._early = now + self._glance_seconds, now + self._glance_seconds / 2
        else:
            pause = min(max(_FRACTION * (now - self._changed), _SHORTEST), _LONGEST)
            self._next = self._early = self._whole = now + pause

    def _look_at_steps(self, memory: RunMemory, now: float) -> None:
        entered = max(memory.boards[rank][Word.ENTERED] for rank in memory.ranks)
        if entered > self._entered:
            seconds = max(0.0, now - self._entered_at) / (entered - self._entered)
            self._later = min(seconds / _PART, _LONGEST)
            self._entered, self._entered_at = entered, now

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None
