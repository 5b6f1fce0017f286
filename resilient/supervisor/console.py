"""What the person at the terminal sees: one line for what matters, and what workers print."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

_LAST_LINE = None  # stands for the stream it is written to
_ERASE = "\r\x1b[2K"


class Console:
    """Writes the supervisor's own lines to stderr, and workers' output to stdout, so that the two can be told apart.

    A thread does the writing: a pager at rest or a pipe that nobody reads blocks its writer, and must not block the
    supervisor. What does not fit the queue meanwhile is dropped; the logs have everything.

    On a terminal its last line may tell how far the run is: it gives way to whatever else is written, and comes back
    below.
    """

    _WAITING = 1000  # pieces of output

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr
        self._queue: queue.Queue[tuple[TextIO | None, str]] = queue.Queue(self._WAITING)
        self._thread: threading.Thread | None = None
        self._line = ""  # the last line, as it is on the terminal now

    @property
    def has_last_line(self) -> bool:
        """Whether :meth:`progress` has an effect."""
        return self._err.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def columns(self) -> int:
        """The width of the terminal; 80 where that is not known."""
        try:
            return os.get_terminal_size(self._err.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    @property
    def has_colours(self) -> bool:
        """Whether workers' output goes to a terminal that wants colours."""
        return _wants_colours(self._out)

    def say(self, message: str) -> None:
        head = f"{time.strftime('%H:%M:%S')} resilient │"
        self._put(
            self._err, f"\x1b[2m{head}\x1b[0m {message}\n" if _wants_colours(self._err) else f"{head} {message}\n"
        )

    def pass_on(self, text: str) -> None:
        self._put(self._out, text)

    def progress(self, line: str) -> None:
        """Show this in the last line from now on; nothing, if it is empty.

        :param line: no wider than the terminal.
        """
        if self.has_last_line:
            self._put(_LAST_LINE, line)

    def flush(self, seconds: float = 2.0) -> None:
        """Wait until everything is written, but not for ever."""
        deadline = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _put(self, stream: TextIO | None, text: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="resilient-console", daemon=True)
            self._thread.start()
        with suppress(queue.Full):
            self._queue.put_nowait((stream, text))

    def _write_all(self) -> None:
        while True:
            stream, text = self._queue.get()
            with suppress(OSError, ValueError):  # the terminal is gone; the run is not
                if stream is _LAST_LINE:
                    self._show_line(text)
                else:
                    self._write(stream, text)
            self._queue.task_done()

    def _write(self, stream: TextIO, text: str) -> None:
        line = self._line
        self._show_line("")
        stream.write(text)
        stream.flush()
        if text.endswith("\n"):
            self._show_line(line)

    def _show_line(self, line: str) -> None:
        if line == self._line:
            return
        self._err.write(f"{_ERASE}{line}" if self._line else line)
        self._err.flush()
        self._line = line


def _wants_colours(stream: TextIO) -> bool:
    """See https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
