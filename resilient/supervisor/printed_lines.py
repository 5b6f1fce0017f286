"""The lines of a log that is still growing, as a person would see them: whole, without colours, bars one by one.

The work is bounded: a script that prints a megabyte per second is read behind, and what is too much is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from resilient.supervisor.output import LogFollower

_AT_ONCE = 1 << 17  # bytes read between two looks
_BEHIND = 1 << 22  # bytes; further behind than that, it is passed over
_LONGEST = 1000  # characters of a line that are looked at; patterns are searched in it, which may be quadratic
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_ENDS = re.compile(rb"[\r\n]+")


class BarSplitter:
    """Makes lines of pieces of text. Each state of a progress bar, which ends by a carriage return, is one."""

    def __init__(self) -> None:
        self._begun = b""  # a line whose end is still to come

    @property
    def unfinished(self) -> str:
        return _plain(self._begun)

    @property
    def is_progress_bar(self) -> bool:
        return False  # its states are whole lines here

    def feed(self, data: bytes) -> list[str]:
        *lines, begun = _ENDS.split(self._begun + data)
        self._begun = begun[-_LONGEST:]
        return [plain for line in lines if (plain := _plain(line))]

    def finish(self) -> list[str]:
        """Nothing more will come: what there is of a line counts as one."""
        last, self._begun = _plain(self._begun), b""
        return [last] if last else []


class PrintedLines:
    """Yields the lines appended to a log since it was first looked at."""

    def __init__(self, path: Path) -> None:
        self._log = LogFollower(path, BarSplitter, _BEHIND)

    def read(self) -> list[str]:
        """The lines that are complete by now."""
        return self._log.read(_AT_ONCE)

    def read_last(self) -> list[str]:
        """The same when nothing will be appended any more; a last line without an end counts."""
        lines = self.read()
        while more := self.read():
            lines += more
        return [*lines, *self._log.finish()]

    def close(self) -> None:
        self._log.close()


def _plain(line: bytes) -> str:
    text = line[: 4 * _LONGEST].decode(errors="replace")
    return _ESCAPE.sub("", text)[:_LONGEST].strip()
