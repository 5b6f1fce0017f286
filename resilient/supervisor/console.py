"""What the person at the terminal sees: one line for what matters, and what rank 0 prints."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO


class Console:
    """Writes the supervisor's own lines to stderr, and workers' output to stdout, so that the two can be told apart."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr

    def say(self, message: str) -> None:
        self._write(self._err, f"{time.strftime('%H:%M:%S')} resilient │ {message}\n")

    def pass_on(self, text: str) -> None:
        self._write(self._out, text)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # the terminal is gone; the run is not, and the logs have everything
            return


class LogTail:
    """Follows a growing log file."""

    _MOST = 1 << 16  # a worker that prints more than this between two looks is for the log file, not for the eye

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0

    def read(self) -> str:
        """What was appended since the last call."""
        try:
            size = self._path.stat().st_size
            if size <= self._position:
                return ""
            with self._path.open("rb") as stream:
                stream.seek(max(self._position, size - self._MOST))
                data = stream.read()
        except OSError:
            return ""
        self._position = size
        return data.decode(errors="replace")
