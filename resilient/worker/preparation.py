"""The preparation: gets the arena's slots ready in the background, so that no capture waits for the first touch."""

from __future__ import annotations

import atexit
import os
import queue
import threading

from resilient.protocol.arena import Arena

_PATIENCE = 2.0  # seconds that the end of the process waits for the piece in hand


class Preparation:
    """Prepares the slots in a thread of its own, which is there from the first request on and ends with the process.

    Processes that are forked from this one do not have the thread, and need none: they write no slots.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._size = 0
        self._left = False  # some slot was in use
        self._requests: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        self._stopped = False

    def want(self, size: int) -> None:
        """Images have ``size`` bytes. Ask for it whenever it may have changed: nothing is done twice."""
        if size <= self._size and not self._left:
            return
        self._size, self._left = max(size, self._size), False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="resilient-prepare", daemon=True)
            self._thread.start()
            atexit.register(self._stop)
        self._requests.put(self._size)

    def _run(self) -> None:
        while not self._stopped:
            size = self._requests.get()
            try:
                self._left = not self._arena.prepare(size, lambda: self._stopped)
            except (OSError, ValueError):  # it was to save time: a capture will meet the error again, and report it
                continue

    def _stop(self) -> None:
        if self._thread is not None and os.getpid() == self._owner:
            self._stopped = True
            self._requests.put(0)
            self._thread.join(_PATIENCE)
