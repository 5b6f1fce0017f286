"""The bell: by it a worker wakes the supervisor of its node when it has begun a step, in runs of several nodes.

What workers write into memory nobody is told of, and what a rank shows at the beginning of a step has to be known on
all nodes before the step is over. Without the bell the supervisor would have to look hundreds of times for each step
that takes long. It is a named pipe beside the boards, and says nothing but that it is time to look; a ring that is lost
costs some milliseconds until the next look.

Where steps take less than :data:`SPACING`, not each of them is rung for: whoever has heard a ring looks once more so
long after it, and has seen then what was not rung for.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NAME = "bell"
SPACING = 0.004
"""Seconds between two rings of a worker, at least."""
_MOST = 1 << 16  # bytes that a pipe holds


class Bell:
    """One end of it. Both open it for reading and writing: neither waits for the other, nor dies of its death."""

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._rung = -math.inf

    @classmethod
    def create(cls, directory: Path, clock: Callable[[], float] = time.monotonic) -> Bell | None:
        """Make one, or take the one that is there; None where the filesystem has no such thing."""
        with suppress(OSError):  # it is there, or cannot be
            os.mkfifo(directory / NAME, 0o600)
        return cls.open(directory, clock)

    @classmethod
    def open(cls, directory: Path, clock: Callable[[], float] = time.monotonic) -> Bell | None:
        """The one that is there; None where there is none."""
        try:
            descriptor = os.open(directory / NAME, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return cls(descriptor, clock)

    def fileno(self) -> int:
        return self._descriptor

    def ring(self) -> None:
        now = self._clock()
        if now - self._rung < SPACING:
            return
        self._rung = now
        with suppress(BlockingIOError):  # it is full of rings that nobody has heard yet
            os.write(self._descriptor, b"\0")

    def hear(self) -> bool:
        """Whether it has been rung since the last call."""
        try:
            return bool(os.read(self._descriptor, _MOST))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)
