"""The findings, for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.doctor.check import Check, Result, worst_last
from resilient.doctor.finding import Level

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_VERSION = 1


def render(results: Sequence[Result], out: TextIO) -> None:
    """The worst last, and a line that sums up. Plain lines where no person is at the other end."""
    if out.isatty():
        Console(file=out).print(_table(results))
    else:
        for result in worst_last(results):
            finding = result.finding
            print(f"{finding.level.value:<8} {result.check.name:<24} {finding.sentence}", file=out)
            if finding.next_step:
                print(f"{'':<33} next: {finding.next_step}", file=out)
    print(summary(results), file=out)


def summary(results: Sequence[Result]) -> str:
    """``37 checks: 1 problem, 2 warnings, 5 notes``, and what that means."""
    counts = {level: sum(result.finding.level is level for result in results) for level in Level}
    told = [_counted(counts[level], level) for level in (Level.PROBLEM, Level.WARNING, Level.NOTE) if counts[level]]
    total = f"{len(results)} check{'s' if len(results) != 1 else ''}"
    if counts[Level.PROBLEM]:
        return f"{total}: {', '.join(told)}. What is called a problem will not work."
    return f"{total}: {', '.join(told)}. Nothing stands in the way." if told else f"{total}: all is well."


def as_json(results: Sequence[Result]) -> str:
    """Stable keys, in the order of the checks."""
    findings = [
        {
            "check": result.check.name,
            "level": result.finding.level.value,
            "sentence": result.finding.sentence,
            "next": result.finding.next_step,
        }
        for result in results
    ]
    worst = max((result.finding.level for result in results), key=lambda level: level.rank, default=Level.OK)
    return json.dumps({"version": _VERSION, "worst": worst.value, "findings": findings}, indent=1, ensure_ascii=False)


def listing(checks: Sequence[Check]) -> str:
    """One line for each check."""
    return "\n".join(f"{check.name:<24} {check.explains}" for check in checks)


def _counted(count: int, level: Level) -> str:
    return f"{count} {level.value}{'s' if count != 1 else ''}"


def _table(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for result in worst_last(results):
        finding = result.finding
        text = Text(finding.sentence)
        if finding.next_step:
            text.append(f"\n→ {finding.next_step}", style="dim")
        table.add_row(Text(finding.level.value, _STYLES[finding.level]), result.check.name, text)
    return table
