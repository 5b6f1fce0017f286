"""The log of metrics: one JSON line per step in which something was reported.

A step that is repeated after a failure appears again; the last line of a step is the one that counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resilient.protocol.append import AppendOnly
from resilient.protocol.board import OURS_BEGIN, Metrics

RESERVED = frozenset({"round", "rank", "step", "time"})
"""Keys of a line that no metric can have."""
OURS = OURS_BEGIN
"""How the names of what resilient itself reports begin; no metric of a script's can."""
PHASE_CHANGE = f"{OURS}phase_change"
"""Reported, as 1, with the step from which on metrics may stand anywhere."""
BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH = f"{OURS}batch", f"{OURS}gradients", f"{OURS}parameters"
"""Hashes of what a step was made of: the top 53 bits of an xxh3-64, an integer that a float holds exactly."""


@dataclass(frozen=True)
class Entry:
    """One line: the metrics, and the round and rank that reported them."""

    round: int
    rank: int
    metrics: Metrics


class MetricsLog:
    """Appends entries; every line is written whole, so readers and crashes see whole lines or none."""

    def __init__(self, path: Path) -> None:
        self._file = AppendOnly(path)

    def write(self, entries: Iterable[Entry]) -> None:
        lines = b"".join(_line(entry) for entry in entries)
        if lines:
            self._file.write(lines)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[Entry]:
    """All entries of a log, in the order in which they were reported; a line cut short by a crash is left out."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                body = json.loads(line)
            except ValueError:
                continue
            place = [body.pop(key) for key in ("round", "rank", "step", "time")]
            yield Entry(place[0], place[1], Metrics(place[2], place[3], {k: float(v) for k, v in body.items()}))


def series(path: Path, name: str, rank: int = 0) -> dict[int, float]:
    """The values of one metric by step: for repeated steps, what was reported last. The run's are those of rank 0."""
    found = {
        entry.metrics.step: entry.metrics.values[name]
        for entry in read_metrics(path)
        if entry.rank == rank and name in entry.metrics.values
    }
    return dict(sorted(found.items()))


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
        "time": round(entry.metrics.time, 6),
    }
    return json.dumps({**place, **values}).encode() + b"\n"
