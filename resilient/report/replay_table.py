"""A replay for the terminal, and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.report.replay import Judged, Replay, Told

_WIDE = 200
_LONGEST = 160  # characters of one event or decision


def as_json(found: Replay) -> dict[str, Any]:
    """Everything, with stable keys."""
    return {
        "events": len(found.judged),
        "differences": [_row(one) for one in found.differences],
        "problems": list(found.problems),
    }


def _row(one: Judged) -> dict[str, Any]:
    return {
        "line": one.line,
        "time": one.time,
        "event": {"name": one.event, "data": one.data},
        "then": [{"name": name, "data": data} for name, data in one.then],
        "now": [{"name": name, "data": data} for name, data in one.now],
        "problem": one.problem,
    }


def render(found: Replay, stream: TextIO, *, everything: bool) -> None:
    """The differences, or all that was decided, and a summary.

    :param everything: events on which today's policy decides the same are shown as well.
    """
    console = Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
    rows = [one for one in found.judged if everything or one.differs]
    if rows:
        console.print(_table(rows))
    for problem in found.problems:
        console.print(f"note: {problem}", soft_wrap=True)
    console.print(summary(found), soft_wrap=True)


def summary(found: Replay) -> str:
    """One line."""
    events, different = len(found.judged), len(found.differences)
    decisions = sum(len(one.then) for one in found.judged)
    what = f"{events} event{'s' * (events != 1)} with {decisions} decision{'s' * (decisions != 1)}"
    if not different:
        return f"{what}: today's policy decides the same."
    return f"{what}: today's policy decides otherwise on {different}."


def _table(rows: Iterable[Judged]) -> Table:
    table = Table(show_lines=True)
    for name in ("line", "time", "event", "decided then", "decided today"):
        table.add_column(name, justify="right" if name == "line" else "left", overflow="fold")
    for one in rows:
        clock = time.strftime("%m-%d %H:%M:%S", time.localtime(one.time))
        today = one.problem or ("the same" if not one.differs else _decisions(one.now))
        style = "bold" if one.differs else ""
        cells = (str(one.line), clock, _told(one.event, one.data), _decisions(one.then), today)
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _decisions(told: Told) -> str:
    return "\n".join(_told(name, data) for name, data in told) or "nothing"


def _told(name: str, data: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={value}" for key, value in _flat(data))
    text = f"{name}({fields})" if fields else name
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _flat(data: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """What says something: not the fields that are empty."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not False and value not in (None, "", []):
            yield key, value
