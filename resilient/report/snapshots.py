"""A run's snapshots, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.snapshot.inventory import Item
from resilient.snapshot.retention import Verdict

_WIDE = 160  # where nobody looks at a terminal, nothing is cut to fit one
_STYLES = {"committed": "green", "corrupt": "red"}
_SECONDS = ((86400, "d"), (3600, "h"), (60, "min"))


def as_json(items: Sequence[Item], verdict: Verdict, *, now: float) -> list[dict[str, Any]]:
    """One object for each item, all with the same keys; what is not known is null.

    :param now: seconds since the epoch.
    """
    steps = {item.manifest.identity: item.step for item in items if item.manifest is not None}
    return [_row(item, verdict, steps, now) for item in items]


def _row(item: Item, verdict: Verdict, steps: Mapping[str, int], now: float) -> dict[str, Any]:
    manifest = item.manifest
    judged = not item.problem
    return {
        "step": item.step,
        "state": item.state.value,
        "problem": item.problem,
        "bytes": item.bytes if manifest else None,
        "created": manifest.created if manifest else None,
        "age_seconds": round(max(0.0, now - manifest.created), 3) if manifest else None,
        "metrics": {name: _finite(value) for name, value in manifest.metrics.items()} if manifest else {},
        "pinned": item.pinned,
        "kept": [reason.value for reason in verdict.kept.get(item.step, ())] if judged else [],
        "removable": judged and item.step in verdict.removable,
        "round": manifest.round if manifest else None,
        "world_size": manifest.world_size if manifest else None,
        "identity": manifest.identity if manifest else None,
        "parent": manifest.parent if manifest else None,
        "parent_step": steps.get(manifest.parent) if manifest and manifest.parent else None,
        "versions": dict(manifest.versions) if manifest else {},
        "path": str(item.path),
    }


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)  # JSON has no number for it


def render(rows: Sequence[Mapping[str, Any]], stream: TextIO, *, detailed: bool) -> None:
    """Print rows of :func:`as_json`: as a table, or each with all that is known."""
    console = Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, markup=False)
    if not rows:
        console.print("no snapshots yet")
    elif detailed:
        for row in rows:
            console.print(_details(row))
    else:
        console.print(_table(rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("step", "size", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("state", "metrics", "pinned", "kept for", "parent"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str | Text]:
    return [
        str(row["step"]),
        _size(row["bytes"]),
        _age(row["age_seconds"]),
        Text(row["state"], _STYLES[row["state"]]),
        _metrics(row["metrics"]),
        "yes" if row["pinned"] else "",
        row["problem"] or ", ".join(row["kept"]) or "nothing: may go",
        _parent(row),
    ]


def _details(row: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    shown = {**row, "bytes": _size(row["bytes"]), "age": _age(row["age_seconds"]), "parent": _parent(row)}
    shown |= {
        "metrics": _metrics(row["metrics"]),
        "kept": ", ".join(row["kept"]),
        "versions": _metrics(row["versions"]),
    }
    for name, value in shown.items():
        if name not in {"age_seconds", "created", "parent_step"} and value not in (None, ""):
            table.add_row(name, str(value))
    return table


def _metrics(metrics: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in metrics.items()
    )


def _parent(row: Mapping[str, Any]) -> str:
    if row["parent"] is None:
        return ""
    return str(row["parent_step"]) if row["parent_step"] is not None else f"{row['parent'][:8]} (gone)"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    value = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for least, unit in _SECONDS:
        if seconds >= least:
            return f"{seconds / least:.0f} {unit}"
    return f"{seconds:.0f} s"
