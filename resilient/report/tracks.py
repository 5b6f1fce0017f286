"""What each round reported, as columns: a run may have a million steps."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.protocol.metrics_log import OURS


@dataclass
class Track:
    """Rank 0 in one round: after which steps it reported, when (seconds since the epoch), and what.

    :ivar values: by metric; not a number where a step does not have it.
    """

    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    values: dict[str, array[float]] = field(default_factory=dict)

    def add(self, step: int, time: float, values: Mapping[str, Any]) -> None:
        """One report; a second one for the same step adds to it."""
        if not self.steps or self.steps[-1] != step:
            self.steps.append(step)
            self.times.append(time)
        count = len(self.steps)
        for name, value in values.items():
            if name.startswith(OURS):
                continue
            column = self.values.setdefault(name, array("d"))
            column.extend([math.nan] * (count - 1 - len(column)))
            if len(column) < count:
                column.append(float(value))
            else:
                column[-1] = float(value)

    def series(self, name: str) -> array[float]:
        """One metric, as long as ``steps``."""
        column = self.values.get(name, array("d"))
        column.extend([math.nan] * (len(self.steps) - len(column)))
        return column


class TrackReader:
    """Reads the logs of all machines in a directory, and the next time only what has come since.

    :ivar tracks: of every round.
    """

    def __init__(self, metrics: Path) -> None:
        self.tracks: dict[int, Track] = {}
        self._metrics = metrics
        self._read: dict[Path, int] = {}

    def read(self) -> dict[int, Track]:
        """Everything that is there by now."""
        for path in sorted(self._metrics.glob("*.jsonl")):
            for body in self._bodies(path):
                try:
                    if body.pop("rank") != 0:
                        continue
                    number, step, time = int(body.pop("round")), int(body.pop("step")), float(body.pop("time"))
                    self.tracks.setdefault(number, Track()).add(step, time, body)
                except (KeyError, TypeError, ValueError):
                    continue
        return self.tracks

    def _bodies(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open("rb") as stream:
            stream.seek(self._read.get(path, 0))
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # its end is still to come
                self._read[path] = self._read.get(path, 0) + len(line)
                try:
                    body = json.loads(line.decode())
                except (ValueError, RecursionError):
                    continue
                if isinstance(body, dict):
                    yield body


def main_metric(tracks: Mapping[int, Track]) -> str | None:
    """What the run is about: its loss, or else what is reported first."""
    names = list(dict.fromkeys(name for track in tracks.values() for name in track.values))
    if "loss" in names:
        return "loss"
    return next((name for name in names if "loss" in name.lower()), next(iter(names), None))
