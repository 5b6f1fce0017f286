"""Reading the journals and the logs of metrics while they are written, from where a predecessor had stopped."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resilient.protocol.paths import RunPaths

_JOURNAL, _METRICS = "journal", "metrics"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line of a file.

    :param file: its path below the run directory.
    :param end: where the next line begins.
    """

    file: str
    end: int
    time: float
    body: Mapping[str, Any]

    @property
    def of_journal(self) -> bool:
        return self.file.startswith(_JOURNAL)


class Tail:
    """All lines of all hosts' files, in the order of their times as far as they are there.

    The files of other hosts are read once: whoever wrote them does not supervise the run any more.

    :ivar places: where in each file the next line begins; changed by :meth:`passed`.
    :ivar dropped: lines that were left out.
    """

    def __init__(self, paths: RunPaths, places: Mapping[str, int], most_behind: int) -> None:
        self.places = dict(places)
        self.dropped = 0
        self._root = paths.root
        self._most_behind = most_behind
        self._own = [str(path.relative_to(paths.root)) for path in (paths.journal, paths.metrics)]
        found = [path for kind in (_JOURNAL, _METRICS) for path in (paths.root / kind).glob("*.jsonl")]
        self._others = sorted({str(path.relative_to(paths.root)) for path in found} - set(self._own))

    def lines(self) -> Iterator[Line]:
        """What is there now and was not passed yet."""
        files, self._others = [*self._others, *self._own], []
        for file in files:
            if file.startswith(_METRICS):
                self._catch_up(file)
        return heapq.merge(*map(self._lines_of, files), key=lambda line: line.time)

    def passed(self, line: Line) -> None:
        """It need not be read again."""
        self.places[line.file] = line.end

    def _lines_of(self, file: str) -> Iterator[Line]:
        """Whole lines; what is none of ours is passed over, and its time is that of the line before."""
        place, last = self.places.get(file, 0), 0.0
        path = self._root / file
        if not path.exists() or path.stat().st_size <= place:
            return
        with path.open("rb") as stream:
            stream.seek(place)
            for raw in stream:
                if not raw.endswith(b"\n"):
                    return  # it is being written
                place += len(raw)
                try:
                    body = json.loads(raw)
                    last = float(body["time"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue
                yield Line(file, place, last, body)

    def _catch_up(self, file: str) -> None:
        """Leave out the oldest metrics of too many: the half of what may wait is kept."""
        path, place = self._root / file, self.places.get(file, 0)
        if not path.exists() or (size := path.stat().st_size) - place <= self._most_behind:
            return
        goal = size - self._most_behind // 2
        with path.open("rb") as stream:
            stream.seek(place)
            while place < goal:
                chunk = stream.read(min(_CHUNK, goal - place))
                self.dropped += chunk.count(b"\n")
                place += len(chunk)
            rest = stream.readline()
        self.dropped += rest.endswith(b"\n")
        self.places[file] = place + len(rest)
