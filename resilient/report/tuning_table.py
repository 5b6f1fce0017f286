"""What the detectors find on a curve, for the terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console

from resilient.policy.divergence import Finding
from resilient.report.curves import Curve
from resilient.report.tuning import Outcome, unwatched
from resilient.supervisor.divergence_words import finding_in_words
from resilient.supervisor.journal import plain

_WIDE = 200


def as_json(curve: Curve, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything, with stable keys."""
    return {
        **_extent(curve),
        "problems": list(curve.problems),
        "settings": [
            {
                "changes": list(one.trial.changes),
                "alarms": one.alarms,
                "divergences": one.divergences,
                "findings": [_row(number, finding) for number, finding in one.findings],
                "note": unwatched(curve, one.trial.settings),
            }
            for one in outcomes
        ],
    }


def _extent(curve: Curve) -> dict[str, Any]:
    steps = [entry.metrics.step for entry in curve.entries]
    return {"reports": len(steps), "first": min(steps), "last": max(steps), "metrics": curve.names}


def _row(number: int, finding: Finding) -> dict[str, Any]:
    body: dict[str, Any] = plain(finding)
    values = {
        name: repr(value) for name, value in body.items() if isinstance(value, float) and not math.isfinite(value)
    }
    return {"round": number, **body, **values}


def render(curve: Curve, outcomes: Sequence[Outcome], stream: TextIO) -> None:
    """The findings of each of the settings, and below how many there are."""
    console = Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
    extent = _extent(curve)
    steps = f"steps {extent['first']} to {extent['last']}"
    console.print(f"{extent['reports']} reports, {steps}, of {', '.join(extent['metrics'])}", soft_wrap=True)
    for problem in curve.problems:
        console.print(f"note: {problem}", soft_wrap=True)
    rounds = len({entry.round for entry in curve.entries})
    for one in outcomes:
        console.print(f"\n{_name(one)}: {_counts(one)}", soft_wrap=True)
        if note := unwatched(curve, one.trial.settings):
            console.print(f"  note: {note}", soft_wrap=True)
        for number, finding in one.findings:
            place = f"round {number}, " if rounds > 1 else ""
            console.print(f"  {place}{finding_in_words(finding)}", soft_wrap=True)


def _name(one: Outcome) -> str:
    return ", ".join(one.trial.changes) or "with the settings as they are"


def _counts(one: Outcome) -> str:
    alarms, divergences = one.alarms, one.divergences
    if not one.findings:
        return "nothing is found"
    return f"{alarms} alarm{'s' * (alarms != 1)}, {divergences} divergence{'s' * (divergences != 1)}"
