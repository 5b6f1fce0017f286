"""Everything that a run's directory tells of it, read once: for the report, and for whoever looks at a live run."""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.errors import JournalUnreadable
from resilient.policy.lineage import Lineage
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.lock import Owner
from resilient.protocol.paths import RunPaths, hostname
from resilient.report.ledger import Ledger, keep_ledger
from resilient.report.rounds import Incident, Round
from resilient.report.tenures import SECOND, Tenure, read_tenures
from resilient.report.tracks import Track, TrackReader, main_metric
from resilient.supervisor.status import Status

_SILENT_SECONDS = 120.0
"""A supervisor on another machine that has written nothing for so long is taken for lost."""
_LOCAL, _REMOTE = "Persisted", "Uploaded"


@dataclass(frozen=True)
class Saved:
    """A snapshot that became durable in a tier.

    :param at: when, microseconds since the epoch.
    :param seconds: that it took in the background.
    """

    step: int
    at: int
    bytes: int
    seconds: float
    tier: str


@dataclass(frozen=True)
class Account:
    """A run, as far as it is known.

    :param now: when it was looked at, microseconds since the epoch.
    :param live: its supervisor is up, as far as can be seen from here.
    """

    paths: RunPaths
    now: int
    live: bool
    status: Status | None
    ledger: Ledger
    tenures: Sequence[Tenure]
    tracks: Mapping[int, Track]
    lineage: Lineage
    saved: Sequence[Saved]
    evidence: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def metric(self) -> str | None:
        """The metric that the run is about."""
        return main_metric(self.tracks)

    @property
    def step(self) -> int:
        """The last that the run has come to."""
        last = self.ledger.rounds[-1].reached if self.ledger.rounds else 0
        return max(last, self.status.step if self.status is not None and self.live else 0)

    @property
    def total(self) -> int:
        """The step after which the run is finished; 0 where that is not known."""
        return self.status.total if self.status is not None else 0

    @property
    def state(self) -> str:
        """In a word or two, what is the matter with the run now."""
        status = self.status
        if status is not None and status.exit_code is not None and not self.live:
            return "finished" if status.finished else f"ended with exit code {status.exit_code}"
        if self.live:
            return status.state if status is not None and status.exit_code is None else "starting"
        return "its supervisor is gone"

    def seconds_ago(self, moment: int) -> float:
        return max(0, self.now - moment) / SECOND

    def after(self, incident: Incident) -> Round | None:
        """The round that was launched because of an incident."""
        rounds, incidents = self.ledger.rounds, self.ledger.incidents
        at = bisect_left(rounds, incident.at, key=lambda one: one.launched)
        following = bisect_right(incidents, incident.at, key=lambda one: one.at)
        if at == len(rounds) or (following < len(incidents) and rounds[at].launched > incidents[following].at):
            return None
        return rounds[at]


def read_account(paths: RunPaths, now: float | None = None, metrics: TrackReader | None = None) -> Account:
    """Read the run's directory.

    :param metrics: who has read the run's metrics before, where this is not the first time.
    :raises JournalUnreadable: nothing has been written down of the run.
    """
    moment = time.time() if now is None else now
    tenures = read_tenures(paths.journal.parent)
    if not tenures:
        raise JournalUnreadable(
            f"{paths.journal.parent} says nothing of the run {paths.run_id}", "it is written once the run has begun"
        )
    status = Status.read(paths.status)
    tracks = (metrics or TrackReader(paths.metrics.parent)).read()
    live = is_live(paths, status, moment) and not tenures[-1].closed
    ledger = keep_ledger(tenures, tracks, round(moment * SECOND) if live else None)
    return Account(
        paths,
        round(moment * SECOND),
        live,
        status,
        ledger,
        tenures,
        tracks,
        _lineage(paths),
        _saved(tenures),
        {incident.number: _evidence(paths.incident(incident.number)) for incident in ledger.incidents},
    )


def is_live(paths: RunPaths, status: Status | None, now: float) -> bool:
    """Whether a supervisor has the run: by its lock and, on another machine, by what it has written of late."""
    for lock in paths.locks():
        owner = Owner.read(lock)
        if owner is None or not owner.is_alive(hostname()):
            continue
        if owner.host == hostname():
            return True
        written = [status.updated if status is not None else 0.0, *map(_written, paths.journal.parent.glob("*.jsonl"))]
        if now - max(written) < _SILENT_SECONDS:
            return True
    return False


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lineage(paths: RunPaths) -> Lineage:
    try:
        return read_lineage(paths)
    except (OSError, ValueError):
        return Lineage()


def _saved(tenures: Sequence[Tenure]) -> list[Saved]:
    found = []
    for line in (line for tenure in tenures for line in tenure.lines if line.name in {_LOCAL, _REMOTE}):
        data = line.data
        try:
            tier = "local" if line.name == _LOCAL else "remote"
            found.append(Saved(int(data["step"]), line.at, int(data["bytes"]), float(data["seconds"]), tier))
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(found, key=lambda saved: saved.at)


def _evidence(place: Path) -> Mapping[str, Any]:
    try:
        loaded = json.loads((place / "incident.json").read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
