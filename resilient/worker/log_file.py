"""The worker's log: stdout and stderr are one file, which outlives whoever reads it, and is bounded.

A file and no pipe: a pipe would break with the supervisor that reads it. So the file is rotated by its writer. It is
renamed, a new one takes its name and its place behind the descriptors 1 and 2, and each write goes to the one or to the
other: no line is lost, and whoever follows the log finds the pieces in the order of their numbers. Programs that the
script has started write on into the piece they were born with; processes forked from Python move on by themselves.

Where the disk is full, or does not answer, what Python code cannot write is counted instead of raised: nobody wants a
training to end because of a ``print``. It is said in the log once there is room again.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from resilient.protocol.append import LATER
from resilient.protocol.log_pieces import piece_numbers, piece_path

_LOOK_EVERY_BYTES = 1 << 16  # how much Python code writes between two looks at the size
_BEHIND = (1, 2)  # stdout and stderr


class LogFile:
    """The file behind the descriptors 1 and 2 of this process.

    :param most: bytes after which it is rotated; 0 for never.
    :param keep: how many older pieces are kept; the oldest are deleted.
    """

    def __init__(self, path: Path, *, most: int = 0, keep: int = 1) -> None:
        self.path = path
        self._most = most
        self._keep = keep
        self._owner = os.getpid()
        self._turn = threading.Lock()
        self._file = (0, 0)  # device and inode

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it, and is no child of the one that did."""
        return os.getpid() == self._owner

    def open(self) -> None:
        """Put the file behind the descriptors 1 and 2. What it holds already stays."""
        self._put(self._append(self.path), _BEHIND)

    def rotate_if_large(self) -> bool:
        """Rotate the file if it is larger than it should be and ends with a whole line. Whether it did.

        An error leaves everything as it is. Only the process that opened the log rotates it, one thread at a time.
        """
        if not self._most or not self.is_ours or not self._turn.acquire(blocking=False):
            return False
        try:
            size = self.path.stat().st_size
            if size <= self._most or (size <= 2 * self._most and not self._ends_with_a_line(size)):
                return False
            return self._rotate()
        except OSError:
            return False
        finally:
            self._turn.release()

    def follow(self) -> None:
        """In a forked child: move on to the file that has the log's name by now."""
        with suppress(OSError):
            state = self.path.stat()
            if (state.st_dev, state.st_ino) != self._file and (behind := self._still_behind()):
                self._put(self._append(self.path), behind)

    def _rotate(self) -> bool:
        behind, state = self._still_behind(), self.path.stat()
        if not behind or (state.st_dev, state.st_ino) != self._file:
            return False  # the script has put something else there, or somebody has moved the file
        fresh = self.path.with_name(f".{self.path.name}.{self._owner}")
        descriptor = self._append(fresh)
        numbers = piece_numbers(self.path)
        try:
            self.path.rename(piece_path(self.path, max(numbers, default=0) + 1))
            fresh.rename(self.path)
        except OSError:
            os.close(descriptor)
            raise
        self._put(descriptor, behind)
        for number in numbers[: max(0, len(numbers) + 1 - self._keep)]:
            piece_path(self.path, number).unlink(missing_ok=True)
        return True

    def _still_behind(self) -> list[int]:
        """Descriptors that are the log: a script may have put something else there."""
        found = []
        for number in _BEHIND:
            with suppress(OSError):
                state = os.fstat(number)
                if (state.st_dev, state.st_ino) == self._file:
                    found.append(number)
        return found

    def _put(self, descriptor: int, numbers: Any) -> None:
        state = os.fstat(descriptor)
        self._file = (state.st_dev, state.st_ino)
        for number in numbers:
            os.dup2(descriptor, number)
        os.close(descriptor)

    @staticmethod
    def _append(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _ends_with_a_line(self, size: int) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(size - 1)
            return stream.read(1) == b"\n"


class LogStream(io.FileIO):
    """What ``sys.stdout`` and ``sys.stderr`` of a worker write to.

    :ivar lost: bytes that could not be written and have not been told of yet.
    """

    def __init__(self, descriptor: int, log: LogFile) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._log = log
        self._unseen = 0
        self.lost = 0

    def write(self, data: Any) -> int:
        """Write all of it; a disk that is full or away is no error."""
        view = memoryview(data).cast("B")
        if not self._log.is_ours:
            self._log.follow()
        if self.lost and not self._tell():
            self.lost += len(view)
            return len(view)
        self._written(view)
        self._unseen += len(view)
        if self._unseen >= _LOOK_EVERY_BYTES:
            self._unseen = 0
            self._log.rotate_if_large()
        return len(view)

    def _written(self, view: memoryview) -> bool:
        """Whether all of it could be written; what could not is counted."""
        at = 0
        try:
            while at < len(view):
                at += super().write(view[at:]) or 0
        except OSError as error:
            if error.errno not in LATER:
                raise
            self.lost += len(view) - at
            return False
        return True

    def _tell(self) -> bool:
        """Say what is missing; whether there is room for that again."""
        text = f"\nresilient: {self.lost:,} bytes of output are missing here: the disk was full, or did not answer\n"
        lost = self.lost
        told = self._written(memoryview(text.encode()))
        self.lost = 0 if told else lost
        return told


_open: LogFile | None = None


def open_log(path: Path, *, most: int = 0, keep: int = 1) -> LogFile:
    """Make ``path`` the log of this process: descriptors 1 and 2, ``sys.stdout`` and ``sys.stderr``."""
    global _open  # noqa: PLW0603  a process has one stdout
    _open = LogFile(path, most=most, keep=keep)
    _open.open()
    for number, name in zip(_BEHIND, ("stdout", "stderr"), strict=True):
        stream = _text(LogStream(number, _open), f"<{name}>", getattr(sys, name).encoding)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)  # what libraries fall back on
    return _open


def rotate_if_large() -> bool:
    """At a step boundary: see to what was written by other than Python code. A look costs a microsecond.

    Does nothing in a process whose output is not ours.
    """
    return _open is not None and _open.rotate_if_large()


def _text(raw: io.FileIO, name: str, encoding: str) -> io.TextIOWrapper:
    """As Python makes it: with a buffer, a name and the encoding that the locale wants."""
    raw.name = name
    stream = io.BufferedWriter(raw)
    return io.TextIOWrapper(stream, encoding=encoding, line_buffering=True, errors="backslashreplace")
