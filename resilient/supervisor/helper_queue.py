"""Requests to a helper that answers one after the other, and its successor should it die."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, TypeVar

from resilient.supervisor.helper import Helper

MAX_DEATHS = 3
REAP_SECONDS = 1.0  # what was killed is gone by then, unless its disk hangs, and then nobody can wait for it

Answer = TypeVar("Answer")


class HelperQueue(ABC, Generic[Answer]):
    """Sends one request at a time; a request that a dead helper did not answer is sent to its successor.

    :cvar reap_seconds: how long a helper that has died by itself is waited for.
    """

    reap_seconds = REAP_SECONDS

    def __init__(self) -> None:
        self._queue: deque[dict[str, Any]] = deque()
        self._deaths = 0
        self._idle = socket.socketpair()  # never readable: what stands for the connection while there is none
        self._start()

    @abstractmethod
    def _make_helper(self) -> Helper:
        """Start one."""

    @abstractmethod
    def _given_up(self, request: dict[str, Any], words: str) -> Answer:
        """The answer to a request over which the helper has died ``MAX_DEATHS`` times; its last words."""

    def _sending(self, request: dict[str, Any]) -> None:
        """A request is about to be sent, perhaps again."""

    def _start(self) -> None:
        self._up = True
        self._helper = self._make_helper()

    @property
    def connection(self) -> socket.socket:
        """Readable when ``receive`` should be called. It is another one once the helper had to be started again."""
        return self._helper.connection if self._up else self._idle[0]

    @property
    def pid(self) -> int:
        """Process number of the helper."""
        return self._helper.pid

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    def abandon_restore(self) -> None:
        """End a helper that does not answer. Its restore is forgotten; what else it was to do, the next one will."""
        self._stop()
        self._queue = deque(request for request in self._queue if request["op"] != "restore")
        self._send_oldest()

    def _ask(self, request: dict[str, Any]) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._send()

    def _next(self) -> None:
        """The oldest request is done."""
        self._queue.popleft()
        self._send_oldest()

    def _send_oldest(self) -> None:
        if self._queue:
            self._send()

    def _send(self) -> None:
        """Send the oldest request; a helper that dies of it is found out by the next ``receive``."""
        if not self._up:
            self._start()
        self._sending(self._queue[0])
        self._helper.send(self._queue[0])

    def _died(self) -> Answer | None:
        self._deaths += 1
        words = self._helper.last_words(400)
        self._helper.close(self.reap_seconds)
        self._up = False
        if not self._queue:
            return None  # the next request starts it again; one that cannot live must not be respawned for ever
        if self._deaths < MAX_DEATHS:
            self._send()
            return None
        self._deaths = 0
        request = self._queue[0]
        self._next()
        return self._given_up(request, words)

    def _stop(self) -> None:
        """Kill it; it is started again when it is needed."""
        if self._up:
            self._helper.kill()
            self._helper.close(REAP_SECONDS)
            self._up = False
