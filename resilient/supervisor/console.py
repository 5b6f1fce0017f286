"""What the person at the terminal sees: one line for what matters, and what rank 0 prints."""

from __future__ import annotations

import queue
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class Console:
    """Writes the supervisor's own lines to stderr, and workers' output to stdout, so that the two can be told apart.

    A thread does the writing: a pager at rest or a pipe that nobody reads blocks its writer, and must not block the
    supervisor. What does not fit the queue meanwhile is dropped; the logs have everything.
    """

    _WAITING = 1000  # pieces of output

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr
        self._queue: queue.Queue[tuple[TextIO, str]] = queue.Queue(self._WAITING)
        self._thread: threading.Thread | None = None

    def say(self, message: str) -> None:
        self._put(self._err, f"{time.strftime('%H:%M:%S')} resilient │ {message}\n")

    def pass_on(self, text: str) -> None:
        self._put(self._out, text)

    def flush(self, seconds: float = 2.0) -> None:
        """Wait until everything is written, but not for ever."""
        deadline = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _put(self, stream: TextIO, text: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="resilient-console", daemon=True)
            self._thread.start()
        with suppress(queue.Full):
            self._queue.put_nowait((stream, text))

    def _write_all(self) -> None:
        while True:
            stream, text = self._queue.get()
            with suppress(OSError, ValueError):  # the terminal is gone; the run is not
                stream.write(text)
                stream.flush()
            self._queue.task_done()


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
