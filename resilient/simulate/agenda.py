"""What is going to happen, in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Agenda:
    """Things to come by name. Of each name there is one at the most: a later one takes its place."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Action]] = []
        self._current: dict[str, int] = {}
        self._numbers = count()

    def put(self, name: str, at: float, action: Action) -> None:
        number = next(self._numbers)
        self._current[name] = number
        heapq.heappush(self._heap, (at, number, name, action))

    def cancel(self, *names: str) -> None:
        for name in names:
            self._current.pop(name, None)

    def clear_all_but(self, *names: str) -> None:
        self.cancel(*(set(self._current) - set(names)))

    def take(self, until: float) -> tuple[float, Action] | None:
        """The next one, with its time; None when there is none before ``until``."""
        while self._heap and self._heap[0][0] <= until:
            at, number, name, action = heapq.heappop(self._heap)
            if self._current.get(name) == number:
                del self._current[name]
                return at, action
        return None
