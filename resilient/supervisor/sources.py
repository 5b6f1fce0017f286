"""What the supervisor waits for: signals, and what its helpers say."""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import Any


class Sources:
    """Waits for any of several connections, which may be others each time.

    A helper that was started again has a new connection, and perhaps the old one's descriptor, so the connections are
    compared and not their numbers. They are asked for again when one of them was handled, or :meth:`look_again` says
    so: to be woken by a clock changes nothing about them.
    """

    def __init__(self, current: Callable[[], Mapping[Any, Callable[[], None]]]) -> None:
        """:param current: what is to be read when it is readable, and by whom, now."""
        self._current = current
        self._epoll = select.epoll()
        self._handlers: Mapping[Any, Callable[[], None]] | None = None  # None: to be asked for
        self._watched: set[Any] = set()
        self._sources: dict[int, Any] = {}  # by descriptor

    def handle(self, seconds: float) -> None:
        """Wait for so long at the most, and have everything read that can be."""
        if self._handlers is None:
            self._handlers = self._current()
            if self._handlers.keys() != self._watched:
                self._watch(self._handlers)
        handlers = self._handlers
        for descriptor, _ in self._epoll.poll(seconds):
            if self._handlers is None:
                handlers = self._current()  # one of the others may just have had a helper replaced
            source = self._sources[descriptor]
            if source in handlers:
                handlers[source]()
                self._handlers = None

    def look_again(self) -> None:
        """Something may have been replaced."""
        self._handlers = None

    def _watch(self, handlers: Mapping[Any, Callable[[], None]]) -> None:
        self._epoll.close()
        self._epoll = select.epoll()
        self._watched = set(handlers)
        self._sources = {source.fileno(): source for source in handlers}
        for descriptor in self._sources:
            self._epoll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        self._epoll.close()
