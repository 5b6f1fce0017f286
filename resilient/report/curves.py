"""Curves to try the divergence detectors on: what a run has reported, or any file with a loss in it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.errors import CurveUnreadable
from resilient.policy.lineage import Lineage
from resilient.protocol.board import Metrics
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.metrics_log import OURS, Entry, last_entries
from resilient.protocol.paths import RunPaths

_STEPS = ("step", "global_step", "_step", "iteration", "iter", "steps")
_NO_METRICS = ("round", "rank", "time", "wall time", "epoch")
_ALONE = "loss"  # what a file of bare numbers holds
_MOST_TOLD = 3


@dataclass(frozen=True)
class Curve:
    """Metrics in the order in which they were reported.

    :param entries: of rank 0; where a round goes on from an earlier step than was reached, the step goes back.
    :param problems: what was passed over.
    """

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What is reported, by name, without what is ours."""
        found = {name for entry in self.entries for name in entry.metrics.values if not name.startswith(OURS)}
        return sorted(found)


def run_curve(paths: RunPaths) -> Curve:
    """What the run has reported on any machine, with what was discarded by rollbacks.

    :raises CurveUnreadable: nothing.
    """
    logs = sorted(paths.metrics.parent.glob("*.jsonl"))
    entries = [entry for log in logs for entry in last_entries(log) if entry.rank == 0]
    if not entries:
        raise CurveUnreadable(
            f"{paths.metrics.parent} has no metrics", "the script reports them with run.report(loss=…)"
        )
    problem = ""
    try:
        lineage = read_lineage(paths)
    except ValueError as error:
        lineage, problem = Lineage(), f"{paths.lineage.name} cannot be read: {error}"
    forked = lineage.forked_from is not None
    notes = ("the run is a fork: of the steps before, the detectors know nothing here",) if forked else ()
    return Curve(tuple(sorted(entries, key=lambda entry: entry.round)), (*filter(None, [problem]), *notes))


def file_curve(path: Path) -> Curve:
    """Of JSON lines, of CSV with a heading, or of one number a line.

    The step is what stands under ``step`` or a like name, or else the line is counted.

    :raises CurveUnreadable: the file cannot be read, or has no numbers.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CurveUnreadable(f"{path} cannot be read: {error}") from error
    problems: list[str] = []
    rows = list(_rows(text, problems))
    entries = tuple(_entries(rows))
    if not entries:
        raise CurveUnreadable(
            f"{path} holds no numbers" + (f": {problems[0]}" if problems else ""),
            'it should have lines as {"step": 1, "loss": 2.5}, CSV with a heading, or one number a line',
        )
    left = [f"and {len(problems) - _MOST_TOLD} more"] if len(problems) > _MOST_TOLD else []
    return Curve(entries, (*problems[:_MOST_TOLD], *left))


def _rows(text: str, problems: list[str]) -> Iterator[Mapping[str, Any]]:
    """Each line's values by name."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return
    if lines[0].lstrip().startswith("{"):
        for number, line in enumerate(lines, 1):
            try:
                body = json.loads(line)
            except (ValueError, RecursionError):
                body = None
            if isinstance(body, dict):
                yield body
            else:
                problems.append(f"line {number} is no JSON object")
    elif _number(lines[0]) is not None:
        yield from ({_ALONE: line.strip()} for line in lines)
    else:
        yield from csv.DictReader(lines, restkey="", delimiter="\t" if "\t" in lines[0] else ",")


def _entries(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """Rows without any number are no steps. Rows of one step, as some loggers write them, are reports of that step."""
    counted = round_ = last = 0
    for row in rows:
        if row.get("rank") not in (None, 0, "0"):
            continue
        values = {str(name): found for name, value in row.items() if (found := _number(value)) is not None}
        places = [values.pop(name) for name in list(values) if name.lower() in _STEPS]
        values = {name: value for name, value in values.items() if name.lower() not in _NO_METRICS}
        if not values:
            continue
        counted += 1
        step = int(places[0]) if places and math.isfinite(places[0]) else counted
        round_ += step < last  # it was taken up again from an earlier step
        last = step
        yield Entry(round_, 0, Metrics(step, 0.0, values))


def _number(value: Any) -> float | None:
    """Text too; whatever is written for what is not finite."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
