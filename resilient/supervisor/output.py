"""What the workers print, followed in their logs: whole lines, each once, whatever happens to the files meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from resilient.protocol.log_pieces import piece_numbers, piece_path

_MOST_PER_LOOK = 1 << 20  # bytes read of all logs together: the supervisor has other things to do
_LEAST_PER_LOOK = 1 << 16
_MOST_BEHIND = 64 << 20  # a worker that is further ahead is not followed line by line any more
_LONGEST_LINE = 1 << 20
_OLDER = 2  # rotated pieces that are still watched, for those who had them open


class Splitter(Protocol):
    """Makes lines of pieces of text."""

    @property
    def unfinished(self) -> str:
        """What has come of the next line."""
        ...

    @property
    def is_progress_bar(self) -> bool: ...

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete with ``data``."""
        ...

    def finish(self) -> list[str]:
        """Nothing more will come: what there is of a line counts as one."""
        ...


class LineSplitter:
    """Makes whole lines of pieces of text. Of a progress bar, which returns to the beginning of its line again and
    again, the last state counts.

    :ivar unfinished: what has come of the next line, as it would be seen on a terminal.
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def unfinished(self) -> str:
        return _as_seen(self._rest)

    @property
    def is_progress_bar(self) -> bool:
        return b"\r" in self._rest

    def feed(self, data: bytes) -> list[str]:
        *whole, rest = (self._rest + data).split(b"\n")
        lines = [_as_seen(line) for line in whole]
        if len(rest) > _LONGEST_LINE and b"\r" not in rest:
            lines.append(_as_seen(rest))
            rest = b""
        if b"\r" in rest:  # what was overwritten need not be kept, however long it goes on
            seen = rest.rstrip(b"\r")
            rest = b"\r" + seen.rpartition(b"\r")[2] + b"\r" * (len(rest) > len(seen))
        self._rest = rest
        return lines

    def finish(self) -> list[str]:
        """Nothing more will come: what there is of a line counts as one."""
        rest, self._rest = self._rest, b""
        return [_as_seen(rest)] if rest.strip() else []


def _as_seen(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


class _Piece:
    """One file of a log that is open for reading."""

    def __init__(self, descriptor: int, lines: Splitter, behind: int, position: int = 0) -> None:
        state = os.fstat(descriptor)
        self.identity = (state.st_dev, state.st_ino)
        self.lines = lines
        self._behind = behind
        self._descriptor = descriptor
        self._position = position

    def read(self, most: int) -> tuple[list[str], int, int]:
        """New lines; how many bytes were read, and how many passed over."""
        size, skipped = os.fstat(self._descriptor).st_size, 0
        if size < self._position:
            self._position = 0  # somebody has emptied it
        if size - self._position > (self._behind or _MOST_BEHIND):
            skipped = size - most - self._position
            self._position += skipped
            self.lines.finish()
        data = os.pread(self._descriptor, min(most, size - self._position), self._position)
        self._position += len(data)
        return self.lines.feed(data), len(data), skipped

    def close(self) -> None:
        os.close(self._descriptor)


class LogFollower:
    """Follows one log across its rotations. It begins where the log ends now.

    :param split: makes what cuts the text of each piece into lines; whole lines by default.
    :param behind: bytes; further behind than that, it is passed over. 0 for what is usual.
    :ivar skipped: bytes that were passed over, because the worker writes faster than anybody can read.
    """

    def __init__(self, path: Path, split: Callable[[], Splitter] | None = None, behind: int = 0) -> None:
        self.skipped = 0
        self._path = path
        self._split = split or LineSplitter
        self._behind = behind
        self._older: deque[_Piece] = deque()
        self._piece: _Piece | None = None
        self._last = max(piece_numbers(path), default=0)  # of the pieces that came before the current one
        with suppress(OSError):
            self._open_log(path.stat().st_size)

    @property
    def lines(self) -> Splitter | None:
        """The state of the line that is being written."""
        return self._piece.lines if self._piece is not None else None

    def read(self, most: int) -> list[str]:
        """New whole lines, of about ``most`` bytes at the most."""
        found: list[str] = []
        try:
            for piece in self._older:
                found += self._read(piece, most)[0]
            if self._piece is None:
                self._open_log()
            left = most
            while self._piece is not None and left > 0:
                lines, count = self._read(self._piece, left)
                found += lines
                left -= count
                if not count and not self._advance(found):
                    break
        except OSError:  # not made yet, or its filesystem does not answer
            return found
        return found

    def _read(self, piece: _Piece, most: int) -> tuple[list[str], int]:
        lines, count, skipped = piece.read(most)
        self.skipped += skipped
        return lines, count

    def _advance(self, found: list[str]) -> bool:
        """Go on to the next piece, if the current one has been rotated away."""
        assert self._piece is not None  # noqa: S101  there is one, and it has been read to its end
        state = self._path.stat()
        if (state.st_dev, state.st_ino) == self._piece.identity:
            return False
        found += self._read(self._piece, _MOST_PER_LOOK)[0]  # what came between the last look and the rotation
        self._older.append(self._piece)
        while len(self._older) > _OLDER:
            oldest = self._older.popleft()
            found += oldest.lines.finish()
            oldest.close()
        current, self._piece = self._piece, None
        for number in [number for number in piece_numbers(self._path) if number > self._last]:
            self._last = number
            with suppress(FileNotFoundError):  # deleted in this moment
                piece = self._open(piece_path(self._path, number))
                if piece.identity != current.identity:
                    self._piece = piece
                    return True
                piece.close()
        self._open_log()
        return True

    def _open_log(self, position: int = 0) -> None:
        """Open the log itself, making sure that nothing was rotated away unseen in the moment of opening it."""
        piece = self._open(self._path, position)
        later = [number for number in piece_numbers(self._path) if number > self._last]
        if not later:
            self._piece = piece
            return
        piece.close()
        self._last = later[0]
        self._piece = self._open(piece_path(self._path, later[0]), position)

    def _open(self, path: Path, position: int = 0) -> _Piece:
        return _Piece(os.open(path, os.O_RDONLY | os.O_CLOEXEC), self._split(), self._behind, position)

    def finish(self) -> list[str]:
        """The writer is gone: what is left of a line counts as one."""
        return [line for piece in (*self._older, self._piece) if piece is not None for line in piece.lines.finish()]

    def close(self) -> None:
        for piece in (*self._older, self._piece):
            if piece is not None:
                piece.close()
        self._older.clear()
        self._piece = None


class WorkerOutput:
    """The output of one round: ``for rank, line in output.read()`` yields every whole line once, in order per rank.

    Nothing is buffered for a second reader; whoever wants the lines shares this loop.
    """

    def __init__(self, logs: Mapping[int, Path]) -> None:
        """Follow these logs, by rank."""
        self._followers = {rank: LogFollower(path) for rank, path in logs.items()}
        self._share = max(_LEAST_PER_LOOK, _MOST_PER_LOOK // max(1, len(self._followers)))

    def read(self) -> Iterator[tuple[int, str]]:
        """What has come since the last call; of a flood only a part, and the rest at the next calls."""
        for rank, follower in self._followers.items():
            for line in follower.read(self._share):
                yield rank, line

    def read_to_end(self, rank: int) -> Iterator[tuple[int, str]]:
        """The rest of what a rank has written, now that it is gone."""
        follower = self._followers.get(rank)
        if follower is None:
            return
        while lines := follower.read(_MOST_BEHIND):
            yield from ((rank, line) for line in lines)
        yield from ((rank, line) for line in follower.finish())

    def unfinished(self) -> Iterator[tuple[int, str, bool]]:
        """What each rank has begun to write of its next line, and whether it is a progress bar."""
        for rank, follower in self._followers.items():
            lines = follower.lines
            if lines is not None:
                yield rank, lines.unfinished, lines.is_progress_bar

    def skipped(self, rank: int) -> int:
        """Bytes of a rank's output that were passed over."""
        follower = self._followers.get(rank)
        return follower.skipped if follower is not None else 0

    def close(self) -> None:
        for follower in self._followers.values():
            follower.close()
