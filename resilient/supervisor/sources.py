"""What the supervisor waits for: signals, and what its helpers say."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Sources:
    """Waits for any of several connections, which may be others each time.

    A helper that was started again has a new connection, and perhaps the old one's descriptor, so the connections are
    compared and not their numbers.
    """

    def __init__(self, current: Callable[[], Mapping[Any, Callable[[], None]]]) -> None:
        """:param current: what is to be read when it is readable, and by whom, now."""
        self._current = current
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._watched: set[Any] = set()

    def handle(self, seconds: float) -> None:
        """Wait for so long at the most, and have everything read that can be."""
        handlers = self._current()
        called = False
        for key, _ in self._watch(handlers).select(seconds):
            if called:
                handlers = self._current()  # one of the others may just have had a helper replaced
            if key.fileobj in handlers:
                key.data()
                called = True

    def _watch(self, handlers: Mapping[Any, Callable[[], None]]) -> selectors.BaseSelector:
        if self._watched != handlers.keys():
            self._selector.close()
            self._selector = selectors.DefaultSelector()
            for source, handler in handlers.items():
                self._selector.register(source, selectors.EVENT_READ, handler)
            self._watched = set(handlers)
        return self._selector

    def close(self) -> None:
        self._selector.close()
