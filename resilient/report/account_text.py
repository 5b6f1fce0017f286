"""The account of a run for the terminal."""

from __future__ import annotations

import time
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.report.account import Account
from resilient.report.account_json import as_json
from resilient.report.buckets import BY_NAME, GOOD
from resilient.report.tenures import SECOND
from resilient.report.words import duration, share

_WIDE = 140  # where nobody looks at a terminal
_BAR = 30
_MOST_ROUNDS = 40


def render(account: Account, stream: TextIO) -> None:
    """Print goodput, where the rest of the time went, incidents with their costs, and rounds."""
    console = Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
    body = as_json(account)
    console.print(Text(f"{account.paths.run_id}: {headline(account)}", "bold"), soft_wrap=True)
    console.print(f"{_when(body)}, {account.state}", soft_wrap=True)
    if body["diagnosis"] and not account.live:
        console.print(body["diagnosis"], soft_wrap=True)
    console.print()
    console.print(_buckets(account))
    if body["incidents"]:
        console.print()
        console.print(_incidents(body))
    if body["rounds"]:
        console.print()
        console.print(_rounds(body))


def headline(account: Account) -> str:
    """Goodput in a few words."""
    ledger = account.ledger
    return f"goodput {share(ledger.goodput, 1)} of {duration(ledger.total / SECOND)}"


def _when(body: dict[str, Any]) -> str:
    began, ended = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(body[key])) for key in ("began", "ended"))
    reached = f"step {body['step']}" + (f" of {body['total']}" if body["total"] else "")
    return f"{began} to {'now' if body['live'] else ended}, {reached}"


def _buckets(account: Account) -> Table:
    table = Table(box=None, pad_edge=False, title="Where the time went", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold", style="dim")
    total = account.ledger.total
    for bucket, amount in account.ledger.buckets.items():
        if amount:
            bar = "█" * max(1, round(_BAR * amount / total))
            style = "green" if bucket in GOOD else "yellow"
            table.add_row(
                bucket.label, duration(amount / SECOND), share(amount, total), Text(bar, style), bucket.explains
            )
    table.add_row("together", duration(total / SECOND), share(total, total), "", "")
    return table


def _incidents(body: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, title="Incidents", title_justify="left", title_style="bold")
    for name, right in (("#", True), ("what", False), ("after step", True), ("resumed from", False), ("cost", True)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    table.add_column("of that", overflow="fold", style="dim")
    for row in body["incidents"]:
        told = str(row["message"] or row["signature"]).splitlines() or [""]
        resumed = "–" if row["resumed_from"] is None else f"step {row['resumed_from']} ({row['source'] or 'beginning'})"
        parts = sorted(row["lost_by_bucket"].items(), key=lambda item: -item[1])[:3]
        table.add_row(
            str(row["number"]),
            f"{row['class']}: {told[0]}",
            str(row["step"]),
            resumed,
            duration(row["seconds_lost"]),
            ", ".join(f"{BY_NAME[name].label} {duration(seconds)}" for name, seconds in parts),
        )
    return table


def _rounds(body: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, title="Rounds", title_justify="left", title_style="bold")
    for name in ("#", "from step", "reached", "kept", "time", "productive"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("began from", overflow="fold")
    table.add_column("on")
    rows = body["rounds"]
    for row in rows[-_MOST_ROUNDS:]:
        good = sum(row["lost_by_bucket"].get(bucket.value, 0.0) for bucket in GOOD)
        table.add_row(
            *(str(row[key]) for key in ("round", "from", "reached", "kept")),
            duration(row["seconds"]),
            share(good, row["seconds"]),
            row["source"] or "the beginning",
            row["host"],
        )
    if len(rows) > _MOST_ROUNDS:
        table.caption = f"and {len(rows) - _MOST_ROUNDS} before them; --json has all"
    return table
