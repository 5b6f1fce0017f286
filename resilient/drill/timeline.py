"""What a run made of a fault: noticed, launched again, back to new steps; read from its journal and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SIGNS = frozenset(
    {
        "KillWorkers",
        "LaunchFailed",
        "PersistFailed",
        "RecordIncident",
        "RestoreFailed",
        "SnapshotRejected",
        "StopRequested",
    }
)
"""Entries that are only there when something has been noticed."""

Progress = Sequence[tuple[float, int]]
"""Time, in seconds since the epoch, and number of completed steps in the order in which they were completed."""


@dataclass(frozen=True)
class Timeline:
    """What followed a fault; all times in seconds since it.

    :param noticed: when the supervisor first wrote of something being wrong; None if it never did.
    :param noticed_as: class and signature of the incidents, or what else was noticed.
    :param launched: when the workers were up again; None where they did not have to be.
    :param recovered: when a step was completed that had not been before; None likewise, or if there was none.
    :param resumed_from: the step that the next round began after, and its tier.
    :param repeated: completed steps that were done again.
    """

    noticed: float | None = None
    noticed_as: str = ""
    launched: float | None = None
    recovered: float | None = None
    resumed_from: str = ""
    repeated: int = 0


def read_timeline(journal: Sequence[Mapping[str, Any]], progress: Progress, injected: float) -> Timeline:
    """A pure function of the two logs.

    :param injected: when the fault was, seconds since the epoch.
    """
    after = [entry for entry in journal if entry["time"] >= injected]
    signs = [entry for entry in after if _is_sign(entry)]
    noticed = signs[0]["time"] if signs else None
    round_began = next((entry for entry in after if entry["name"] == "LaunchRound"), None)
    if round_began is None:
        return Timeline(_since(injected, noticed), _names(after, signs))
    began = round_began["time"]
    up = next((e["time"] for e in after if e["name"] == "worker launched" and e["time"] >= began), None)
    furthest = _furthest(journal, progress, began)
    new = next((time for time, step in progress if time >= began and step > furthest), None)
    resumed, source = round_began["data"].get("step") or 0, round_began["data"].get("source")
    return Timeline(
        noticed=_since(injected, noticed),
        noticed_as=_names(after, signs),
        launched=_since(injected, up),
        recovered=_since(injected, new),
        resumed_from=f"step {resumed} ({source})" if source else "the beginning",
        repeated=_repeated(journal, progress, injected),
    )


def _repeated(journal: Sequence[Mapping[str, Any]], progress: Progress, injected: float) -> int:
    """Over all rounds since: how much further the run had been than where the round began."""
    total, last = 0, 0.0
    for entry in journal:
        if entry["name"] != "LaunchRound":
            continue
        if entry["time"] >= injected:
            reached = _furthest(journal, progress, entry["time"], since=last)
            total += max(0, reached - (entry["data"].get("step") or 0))
        last = entry["time"]
    return total


def _furthest(journal: Sequence[Mapping[str, Any]], progress: Progress, until: float, since: float = 0.0) -> int:
    """The last step that was completed between two moments."""
    reported = (step for time, step in progress if since <= time <= until)
    exits = (e.get("step", 0) for e in journal if e["name"] == "worker exited" and since <= e["time"] <= until)
    return max([*reported, *exits], default=0)


def _is_sign(entry: Mapping[str, Any]) -> bool:
    data = entry.get("data") or {}
    if entry["name"] == "WorkerExited":
        return data.get("failure") is not None
    if entry["name"] == "RunOpened":
        return bool(data.get("takeover"))
    return entry["name"] in _SIGNS


def _names(after: Sequence[Mapping[str, Any]], signs: Sequence[Mapping[str, Any]]) -> str:
    """The incidents, or else the first sign of which there is something to say."""
    failures = [e["data"]["incident"]["failure"] for e in after if e["name"] == "RecordIncident"]
    if failures:
        names = [f"{failure['failure_class']}: {failure['signature']}" for failure in failures]
        return ", ".join(dict.fromkeys(names))
    for entry in signs:
        data = entry.get("data") or {}
        if said := data.get("problem") or data.get("reason"):
            return str(said)
    return signs[0]["name"] if signs else ""


def _since(injected: float, time: float | None) -> float | None:
    return None if time is None else max(0.0, round(time - injected, 3))
