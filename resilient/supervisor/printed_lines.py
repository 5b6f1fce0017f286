"""The lines of a log that is still growing, as a person would see them: whole, without colours, bars one by one.

The work is bounded: a script that prints a megabyte per second is read behind, and what is too much is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

_AT_ONCE = 1 << 17  # bytes read between two looks
_BEHIND = 1 << 22  # bytes; further behind than that, it is passed over
_LONGEST = 1000  # characters of a line that are looked at; patterns are searched in it, which may be quadratic
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_ENDS = re.compile(r"[\r\n]+")


class PrintedLines:
    """Yields the lines appended to a file since it was first looked at. A progress bar ends a line by a carriage
    return.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._begun = ""  # a line whose end is still to come
        self._file = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            state = self._path.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino

    def read(self) -> list[str]:
        """The lines that are complete by now."""
        text = self._begun + self._read_more()
        *lines, self._begun = _ENDS.split(text)
        if len(self._begun) > _LONGEST:
            self._begun = self._begun[-_LONGEST:]
        return [plain for line in lines if (plain := _plain(line))]

    def read_last(self) -> list[str]:
        """The same when nothing will be appended any more; a last line without an end counts."""
        lines = self.read()
        while more := self.read():
            lines += more
        last, self._begun = _plain(self._begun), ""
        return [*lines, last] if last else lines

    def _read_more(self) -> str:
        if (file := self._identity()) != self._file:
            # It was rotated. What went into the old piece since the last look, a moment before, is passed over.
            self._file, self._position = file, 0
        try:
            size = self._path.stat().st_size
            if size - self._position > _BEHIND:
                self._position, self._begun = size - _AT_ONCE, ""
            if size <= self._position:
                return ""
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read(min(_AT_ONCE, size - self._position))
        except OSError:
            return ""
        self._position += len(data)
        return data.decode(errors="replace")


def _plain(line: str) -> str:
    return _ESCAPE.sub("", line[: 4 * _LONGEST])[:_LONGEST].strip()
