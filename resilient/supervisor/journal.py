"""The journal: events and decisions as JSON lines, appended and never rewritten.

Each line is written whole with one ``write``; what a crash cuts off is at most the last line. Enough is kept to take
every decision again from the events.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from resilient.protocol.append import AppendOnly
from resilient.protocol.paths import RunPaths


class Journal:
    """Appends entries. ``at`` is the supervisor's monotonic clock, ``time`` seconds since the epoch."""

    def __init__(self, path: Path) -> None:
        self._file = AppendOnly(path)

    def write(self, kind: str, name: str, at: float, **fields: Any) -> None:
        """One line: ``kind`` is ``event``, ``decision`` or ``note``."""
        entry = {"time": round(time.time(), 6), "at": round(at, 6), "kind": kind, "name": name, **fields}
        self._file.write(json.dumps(plain(entry)).encode() + b"\n")

    def record(self, kind: str, item: Any, at: float) -> None:
        """A frozen event or decision, field by field."""
        self.write(kind, type(item).__name__, at, data=plain(item))

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """All whole entries of a journal, in order."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                entry = json.loads(line.decode())  # of bytes it would look for the encoding each time
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry


def read_journals(paths: RunPaths) -> Iterator[dict[str, Any]]:
    """The entries of all nodes that have ever decided for the run, or done what others decided, by time."""
    found = [read_journal(path) for path in sorted(paths.journal.parent.glob("*.jsonl"))]
    yield from heapq.merge(*found, key=lambda entry: float(entry.get("time", 0.0)))


def plain(value: Any) -> Any:
    """Dataclasses, enumerations and non-finite numbers as plain JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
