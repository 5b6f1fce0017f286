"""The bell: by it a worker wakes the supervisor of its node when it has begun a step or taken an image, in runs of
several nodes.

What workers write into memory nobody is told of, and what a rank shows at the beginning of a step has to be known on
all nodes before the step is over. Without the bell the supervisor would have to look hundreds of times for each step
that takes long. It is a named pipe beside the boards, and says nothing but that it is time to look, and whether
somebody waits for that; a ring that is lost costs some milliseconds until the next look.

Whoever has heard it is not woken again before it listens anew: many ranks begin a step in the same moment, and one look
is enough for all of them.
"""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from enum import Enum
from pathlib import Path

NAME = "bell"
_NEWS, _WAITING = b"\0", b"!"
_MOST = 1 << 16  # bytes that a pipe holds
_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Ring(Enum):
    """What has been rung for."""

    NOTHING = 0
    NEWS = 1  # a step has been begun, or an image is complete
    WAITING = 2  # somebody waits for what the others have to say


def _open(directory: Path) -> int | None:
    """For reading and writing: neither end waits for the other, nor dies of its death."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


class BellPull:
    """The worker's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def find(cls, directory: Path) -> BellPull | None:
        """That of the bell that is there; None where there is none."""
        descriptor = _open(directory)
        return None if descriptor is None else cls(descriptor)

    def ring(self, *, waiting: bool = False) -> None:
        """:param waiting: for what the others have to say."""
        with suppress(BlockingIOError):  # it is full of rings that nobody has heard yet
            os.write(self._descriptor, _WAITING if waiting else _NEWS)

    def close(self) -> None:
        os.close(self._descriptor)


class Bell:
    """The supervisor's end, which listens."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ear = select.epoll()
        self._ear.register(descriptor, _ONCE)
        self._listens = True

    @classmethod
    def create(cls, directory: Path) -> Bell | None:
        """Make one, or take the one that is there; None where the filesystem has no such thing."""
        with suppress(OSError):  # it is there, or cannot be
            os.mkfifo(directory / NAME, 0o600)
        descriptor = _open(directory)
        return None if descriptor is None else cls(descriptor)

    def fileno(self) -> int:
        """Readable when :meth:`hear` should be called; once, until :meth:`listen`."""
        return self._ear.fileno()

    def hear(self) -> Ring:
        """What has been rung for since the last call."""
        if self._ear.poll(0):
            self._listens = False
        return self._read()

    def listen(self) -> Ring:
        """Be woken by the next ring; what has been rung for while it was not listened to."""
        if self._listens:
            return Ring.NOTHING
        rung, self._listens = self._read(), True
        self._ear.modify(self._descriptor, _ONCE)
        return rung

    def _read(self) -> Ring:
        try:
            rings = os.read(self._descriptor, _MOST)
        except BlockingIOError:
            return Ring.NOTHING
        return Ring.WAITING if _WAITING in rings else Ring.NEWS

    def close(self) -> None:
        self._ear.close()
        os.close(self._descriptor)
