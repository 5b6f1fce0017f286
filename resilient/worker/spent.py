"""Where the time of a round goes, other than into its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Spent:
    """Adds up seconds since the round began.

    :ivar data: in which steps waited for their data.
    :ivar stalled: in which snapshots held the training up.
    :ivar aside: in phases that are no steps; of those inside one another, the outermost counts.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.data = self.stalled = self.aside = 0.0
        self._clock = clock
        self._depth = 0

    def fetch(self, get: Callable[[], T]) -> T:
        """What ``get`` gets is data."""
        began = self._clock()
        try:
            return get()
        finally:
            self.data += self._clock() - began

    def stall(self, seconds: float) -> float:
        """A snapshot held the training up so long; returns it."""
        self.stalled += seconds
        return seconds

    @contextmanager
    def phase(self) -> Iterator[None]:
        """What happens inside is no step."""
        began, self._depth = self._clock(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.aside += self._clock() - began
