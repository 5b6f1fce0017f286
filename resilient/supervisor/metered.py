"""Storage that says how far it is, and writes no faster than it may."""

from __future__ import annotations

import time
from collections.abc import Callable

from resilient.snapshot.storage import Storage

_PIECE = 8 << 20
"""Bytes after which progress is told and a limit is kept: small beside a second of any disk, large beside a block."""


class MeteredStorage(Storage):
    """The local filesystem, with a limit and a count.

    :ivar waited: seconds since :meth:`start` that the limit has cost, or in which there was nothing to write.
    :param progress: called with the bytes written since :meth:`start`, or found to be written already.
    :param hurried: asked now and then while the limit makes us wait; once it says yes, the limit is off.
    """

    def __init__(
        self,
        progress: Callable[[int], None],
        hurried: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._progress = progress
        self._hurried = hurried
        self._clock = clock
        self._sleep = sleep
        self.waited = 0.0
        self._limit = 0.0
        self._began = 0.0
        self._written = 0
        self._spared = 0

    def start(self, limit: float) -> None:
        """Begin to count.

        :param limit: bytes per second, on average since this call; 0 for none.
        """
        self._limit, self._began, self._written, self.waited = limit, self._clock(), 0, 0.0
        self._spared = 0

    def spared(self, size: int) -> None:
        """It counts for progress, and not for the limit."""
        self._spared += size
        self._progress(self._written + self._spared)

    def idle(self, seconds: float) -> None:
        """There was nothing to write for so long: that says nothing of the disk."""
        self.waited += seconds

    def append(self, descriptor: int, data: memoryview) -> None:
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            super().append(descriptor, piece)
            self._written += len(piece)
            self._keep_the_limit()
            self._progress(self._written + self._spared)

    def _keep_the_limit(self) -> None:
        while self._limit and (early := self._began + self._written / self._limit - self._clock()) > 0:
            if self._hurried():
                self._limit = 0.0
                return
            pause = min(early, 0.1)
            self._sleep(pause)
            self.waited += pause
            # Who judges the disk by what is written has to know how long we only wait.
            self._progress(self._written + self._spared)
