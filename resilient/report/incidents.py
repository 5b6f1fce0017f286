"""The incidents of a run, with what each of them cost, from its journal and its metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from resilient.protocol.metrics_log import Entry, read_metrics
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal


@dataclass(frozen=True)
class IncidentReport:
    """One incident and its price.

    :param time: when it was detected, seconds since the epoch.
    :param signature: what it has in common with others of the same cause; ``message`` is the same with its numbers.
    :param step: the last completed step.
    :param resumed_from: the step from which training went on, and the tier; None when it did not.
    :param steps_repeated: completed steps that had to be done again.
    :param seconds_lost: from the last new step before it (or from the incident before, if none lies between) to the
        first new step after it (or to the next incident), less one usual step. None when there was no new step after
        it.
    """

    number: int
    time: float
    failure_class: str
    signature: str
    step: int
    resumed_from: int | None
    source: str
    steps_repeated: int
    seconds_lost: float | None
    message: str = ""


def incident_reports(paths: RunPaths) -> list[IncidentReport]:
    """All incidents of the run on this host, in order."""
    return price(list(read_journal(paths.journal)), list(read_metrics(paths.metrics)))


def price(journal: Sequence[Mapping[str, Any]], metrics: Iterable[Entry]) -> list[IncidentReport]:
    """Find the incidents in ``journal`` and what each cost; a pure function of the two logs."""
    progress = _new_steps(metrics)
    usual = statistics.median(_gaps(progress)) if len(progress) > 1 else 0.0
    found = [entry for entry in journal if entry["name"] == "RecordIncident"]
    reports = []
    for index, entry in enumerate(found):
        incident, at = entry["data"]["incident"], entry["time"]
        following = found[index + 1]["time"] if index + 1 < len(found) else float("inf")
        launch = next(
            (item["data"] for item in journal if item["name"] == "LaunchRound" and at <= item["time"] < following), None
        )
        own = next(
            (item for item in journal if item["name"] == "own checkpoint" and at <= item["time"] < following), launch
        )
        resumed = (own["step"] or 0) if launch and own else None
        furthest = max((step for time, step in progress if time <= at), default=0)
        reports.append(
            IncidentReport(
                number=incident["number"],
                time=at,
                failure_class=incident["failure"]["failure_class"],
                signature=incident["failure"]["signature"],
                step=incident["step"],
                resumed_from=resumed,
                source=(own["source"] or "beginning") if launch and own else "",
                steps_repeated=max(0, furthest - resumed) if resumed is not None else 0,
                seconds_lost=_seconds_lost(progress, found, index, usual),
                message=incident["failure"].get("message", ""),
            )
        )
    return reports


def _seconds_lost(
    progress: list[tuple[float, int]], found: Sequence[Mapping[str, Any]], index: int, usual: float
) -> float | None:
    at = float(found[index]["time"])
    before = max((time for time, _ in progress if time <= at), default=at)
    if index > 0 and found[index - 1]["time"] > before:
        before = at  # the incident before this one already counts the time up to here
    after = min((time for time, _ in progress if time > at), default=None)
    if index + 1 < len(found) and (after is None or found[index + 1]["time"] < after):
        return max(0.0, float(found[index + 1]["time"]) - before)
    return None if after is None else max(0.0, after - before - usual)


def _new_steps(metrics: Iterable[Entry]) -> list[tuple[float, int]]:
    """Time and number of each step that went further than all before it."""
    furthest, found = 0, []
    for entry in metrics:
        if entry.metrics.step > furthest:
            furthest = entry.metrics.step
            found.append((entry.metrics.time, furthest))
    return found


def _gaps(progress: list[tuple[float, int]]) -> list[float]:
    return [later[0] - earlier[0] for earlier, later in zip(progress, progress[1:], strict=False)]


def incident_table(reports: Iterable[IncidentReport]) -> Table:
    """The incidents as a table for the terminal."""
    table = Table(title="Incidents", title_justify="left")
    for name, right in (
        ("#", True),
        ("what", False),
        ("after step", True),
        ("resumed from", False),
        ("steps repeated", True),
        ("time lost", True),
    ):
        table.add_column(name, justify="right" if right else "left")
    for report in reports:
        resumed = "–" if report.resumed_from is None else f"step {report.resumed_from} ({report.source})"
        lost = "–" if report.seconds_lost is None else f"{report.seconds_lost:.2f} s"
        told = (report.message or report.signature).splitlines()[0]
        what = f"{report.failure_class}: {told}"
        table.add_row(str(report.number), what, str(report.step), resumed, str(report.steps_repeated), lost)
    return table
