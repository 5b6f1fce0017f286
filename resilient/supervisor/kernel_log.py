"""What the kernel has logged since a moment, read without waiting. Where that is not allowed, it has said nothing."""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

_MOST_LINES = 400
_MOST_READS = 20_000
_LONGEST = 8192  # bytes of a record, as the kernel writes them


class KernelLog:
    """``/dev/kmsg``: each read gives one record, ``priority,sequence,microseconds,flags;message``."""

    def __init__(self, path: Path = Path("/dev/kmsg"), *, whole: bool = False) -> None:
        """Open it.

        :param whole: what was said before now is of interest too.
        """
        self._descriptor: int | None = None
        self._kept: deque[str] = deque(maxlen=_MOST_LINES)
        with suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not whole:
                self.forget()

    @property
    def readable(self) -> bool:
        return self._descriptor is not None

    def forget(self) -> None:
        """What was said before now is not of interest."""
        self._kept.clear()
        if self._descriptor is not None:
            with suppress(OSError):
                os.lseek(self._descriptor, 0, os.SEEK_END)

    def lines(self) -> tuple[str, ...]:
        """The latest messages since :meth:`forget`, oldest first, bounded."""
        for _ in range(_MOST_READS if self._descriptor is not None else 0):
            record = self._read()
            if not record:
                break
            for line in record.decode(errors="replace").splitlines():
                if line and not line.startswith(" "):  # such lines name the device, in a form of their own
                    self._kept.append(line.partition(";")[2] or line)
        return tuple(self._kept)

    def _read(self) -> bytes:
        assert self._descriptor is not None  # noqa: S101  asked before
        while True:
            try:
                return os.read(self._descriptor, _LONGEST)
            except OSError as error:
                if error.errno != errno.EPIPE:  # records were overwritten before we came; the next read goes on after
                    return b""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
