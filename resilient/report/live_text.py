"""The live view of a run for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resilient.report.live import Live, spark
from resilient.report.tenures import SECOND
from resilient.report.words import duration, number, share, size

_MOST_RANKS = 8
_LATEST = 5
_CURVE_WIDTH = 40


def view(live: Live) -> RenderableType:
    """Everything that matters now, on less than a screen."""
    account = live.account
    head = Text.assemble((account.paths.run_id, "bold"), "  ", (account.state, _style(live)))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(live):
        table.add_row(name, Text(value))
    parts: list[RenderableType] = [head]
    if live.total:
        parts.append(ProgressBar(total=live.total, completed=live.step, width=60))
    return Group(*parts, table)


def plain_lines(live: Live) -> Iterator[str]:
    """The same without any art, for pipes and logs."""
    yield f"{live.account.paths.run_id}: {live.account.state}"
    for name, value in lines(live):
        yield f"{name + ':':<11} {value}"


def lines(live: Live) -> Iterator[tuple[str, str]]:
    """What there is to say, by name."""
    account = live.account
    yield "step", _progress(live)
    if live.pace is not None:
        yield "step time", duration(live.pace)
    if curve := live.curve():
        yield account.metric or "", f"{number(curve[-1])}  {spark(curve, _CURVE_WIDTH)}"
    if live.ranks:
        yield "ranks", _ranks(live)
    elif account.status is not None and account.status.ranks and account.live:
        yield "ranks", str(account.status.ranks)
    for tier, step, age, bytes_ in live.tiers():
        told = [f"step {step}"] + ([f"{duration(age)} ago"] if age is not None else [])
        yield tier, ", ".join(told + ([size(bytes_)] if bytes_ is not None else []))
    yield "incidents", _incidents(live)
    ledger = account.ledger
    yield "goodput", f"{share(ledger.goodput, 1)} of {duration(ledger.total / SECOND)}"
    if account.status is not None and account.status.diagnosis and not account.live:
        yield "diagnosis", account.status.diagnosis


def _progress(live: Live) -> str:
    told = f"{live.step:,}"
    if live.total:
        told += f" of {live.total:,} ({100 * live.step // live.total} %)"
    if live.account.ledger.rounds:
        told += f", round {live.account.ledger.rounds[-1].number}"
    if live.left:
        told += f", {duration(live.left)} to go"
    return told


def _ranks(live: Live) -> str:
    steps = {rank.step for rank in live.ranks}
    phases = {rank.phase for rank in live.ranks}
    if len(live.ranks) > _MOST_RANKS or (len(phases) == 1 and len(steps) == 1):
        at = f"step {min(steps)}" + (f" to {max(steps)}" if len(steps) > 1 else "")
        return f"{len(live.ranks)}, at {at}, {', '.join(sorted(phases))}"
    return ", ".join(f"{rank.rank}: step {rank.step} {rank.phase}" for rank in live.ranks)


def _incidents(live: Live) -> str:
    found = live.account.ledger.incidents
    if not found:
        return "none"
    costs = live.account.ledger.costs
    latest = [
        f"{one.number} {one.failure.get('failure_class', '')} {duration(live.account.seconds_ago(one.at))} ago"
        f" (cost {duration(sum(costs.get(one.number, {}).values()) / SECOND)})"
        for one in reversed(found[-_LATEST:])
    ]
    return f"{len(found)}; latest " + ", ".join(latest)


def _style(live: Live) -> str:
    status = live.account.status
    if live.account.live or (status is not None and status.finished):
        return "green"
    return "yellow" if status is not None and status.exit_code in {75, 143} else "red"
