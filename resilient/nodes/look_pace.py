"""How often it is looked at what the workers of this node show: they write into memory, and nobody is told of that."""

from __future__ import annotations

from collections.abc import Callable

_SHORTEST, _LONGEST = 0.004, 0.02  # seconds
_FRACTION = 0.5


class LookPace:
    """The longer nothing has changed, the longer until the next look.

    A change is seen late by half of the time since the one before, at the most. So what a rank shows at the beginning
    of a step is known on all nodes before the step is over, and a long step is not looked at hundreds of times.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = clock()

    def changed(self) -> None:
        """There was news in this look."""
        self._changed = self._clock()

    @property
    def seconds(self) -> float:
        """Until the next one."""
        return min(max(_FRACTION * (self._clock() - self._changed), _SHORTEST), _LONGEST)
