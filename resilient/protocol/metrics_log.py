"""The log of metrics: one JSON line per step in which something was reported.

A step that is repeated after a failure appears again; the last line of a step is the one that counts.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resilient.protocol.append import AppendOnly
from resilient.protocol.board import OURS_BEGIN, Board, Metrics

RESERVED = frozenset({"round", "rank", "step", "time"})
"""Keys of a line that no metric can have."""
OURS = OURS_BEGIN
"""How the names of what resilient itself reports begin; no metric of a script's can."""
PHASE_CHANGE = f"{OURS}phase_change"
"""Reported, as 1, with the step from which on metrics may stand anywhere."""
BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH = f"{OURS}batch", f"{OURS}gradients", f"{OURS}parameters"
"""Hashes of what a step was made of: the top 53 bits of an xxh3-64, an integer that a float holds exactly."""
_TIME_DIGITS = 6
_to_json = json.JSONEncoder().encode
_MANY_BYTES = 64 << 20
_LEFT_BYTES = 8 << 20  # more than all reports that fit on one board take in the log
_REPORT = re.compile(rb'^\{"round": \d+, "rank": (\d+), "step": (\d+), "time": ([^,}]+)', re.MULTILINE)
"""How a line begins; to read all of many lines would keep the supervisor from its work for half a second."""


@dataclass(frozen=True)
class Entry:
    """One line: the metrics, and the round and rank that reported them."""

    round: int
    rank: int
    metrics: Metrics


class MetricsLog:
    """Appends entries; every line is written whole, so readers and crashes see whole lines or none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = AppendOnly(path)

    def write(self, entries: Iterable[Entry]) -> None:
        lines = b"".join(_line(entry) for entry in entries)
        if lines:
            self._file.write(lines)

    def take_down(self, board: Board, round_number: int, rank: int) -> list[Entry]:
        """Write what the worker of a board has reported since the last time, whoever took that down.

        The board is told so afterwards: a SIGKILL in between loses nothing, and the next one to take it down finds
        what is in the log already.
        """
        found = [Entry(round_number, rank, metrics) for metrics in board.unread_metrics()]
        if found:
            known = self._predecessors
            self.write([entry for entry in found if _report(entry) not in known] if known else found)
            board.mark_read()
        return found

    @cached_property
    def _predecessors(self) -> frozenset[tuple[int, int, float]]:
        """The last reports in the log as it was found: their boards may not have been told of them."""
        found = _REPORT.findall(_end_of(self._path, _LEFT_BYTES))
        return frozenset((int(rank), int(step), float(time)) for rank, step, time in found)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[Entry]:
    """All entries of a log, in the order in which they were reported; a line cut short by a crash is left out."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        yield from filter(None, map(_entry, stream))


def last_entries(path: Path) -> Iterator[Entry]:
    """The last entries of a log, some hundred thousand; of one that cannot be read, none."""
    yield from filter(None, map(_entry, _end_of(path, _MANY_BYTES).splitlines()))


def _end_of(path: Path, most: int) -> bytes:
    """The last lines of a log, so many bytes at the most; nothing of one that cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most))
            if size > most:
                stream.readline()
            return stream.read()
    except OSError:
        return b""


def series(path: Path, name: str, rank: int = 0) -> dict[int, float]:
    """The values of one metric by step: for repeated steps, what was reported last. The run's are those of rank 0."""
    found = {
        entry.metrics.step: entry.metrics.values[name]
        for entry in read_metrics(path)
        if entry.rank == rank and name in entry.metrics.values
    }
    return dict(sorted(found.items()))


def _entry(line: bytes) -> Entry | None:
    """What :func:`_line` has written; None where it is nothing of the kind."""
    try:
        body = json.loads(line)
        values = {name: float(value) for name, value in body.items() if name not in RESERVED}
        metrics = Metrics(int(body["step"]), float(body["time"]), values)
        return Entry(int(body["round"]), int(body["rank"]), metrics)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _report(entry: Entry) -> tuple[int, int, float]:
    """Which report it is, whatever round it is ascribed to; its time as it stands in the log."""
    return entry.rank, entry.metrics.step, round(entry.metrics.time, _TIME_DIGITS)


def _line(entry: Entry) -> bytes:
    # `repr` of a float is exact, and so is what json writes; non-finite ones become strings, which float() reads back.
    values = {
        name: value if math.isfinite(value) else repr(value)
        for name, value in entry.metrics.values.items()
        if name not in RESERVED
    }
    place = {
        "round": entry.round,
        "rank": entry.rank,
        "step": entry.metrics.step,
        "time": round(entry.metrics.time, _TIME_DIGITS),
    }
    return _to_json({**place, **values}).encode() + b"\n"
