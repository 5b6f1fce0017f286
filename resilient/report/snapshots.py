"""A run's snapshots, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.snapshot.inventory import Item, State, why_discarded
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.remote import RemoteItem
from resilient.snapshot.retention import Verdict
from resilient.snapshot.standing import Standing

_WIDE = 160  # where nobody looks at a terminal, nothing is cut to fit one
_STYLES = {"committed": "green", "corrupt": "red", "discarded": "yellow"}
_GRADES = {"good": "green", "probation": "", "suspect": "red"}
_UNKNOWN = Standing()
_SECONDS = ((86400, "d"), (3600, "h"), (60, "min"))


@dataclass(frozen=True)
class RemoteView:
    """What lies in the remote tier, and what retention there says of it.

    :param place: URL of the run's snapshots.
    """

    place: str
    items: Sequence[RemoteItem]
    verdict: Verdict


def as_json(
    items: Sequence[Item],
    verdict: Verdict,
    *,
    now: float,
    remote: RemoteView | None = None,
    standing: Standing = _UNKNOWN,
) -> list[dict[str, Any]]:
    """One object for each snapshot, all with the same keys; what is not known is null.

    One that lies here and in the remote tier is one object, told by its identity.

    :param now: seconds since the epoch.
    :param standing: what the run's lineage says of them.
    """
    there = {item.manifest.identity: item for item in remote.items if item.manifest} if remote else {}
    steps = {item.manifest.identity: item.step for item in items if item.manifest is not None}
    steps |= {identity: item.step for identity, item in there.items()}
    rows, matched = [], set()
    for item in items:
        copy = there.get(item.manifest.identity) if item.manifest is not None else None
        matched.add(copy.name if copy is not None else "")
        rows.append({**_row(item, verdict, steps, now, standing), **_tiers("local", copy, remote)})
    for other in remote.items if remote else ():
        if other.name not in matched:
            assert remote is not None  # noqa: S101  that is where it lies
            row = {
                **_row(_alone(other, standing), remote.verdict, steps, now, standing),
                "path": f"{remote.place}/{other.name}",
            }
            rows.append({**row, **_tiers(None, other, remote)})
    return sorted(rows, key=lambda row: int(row["step"]))


def _alone(other: RemoteItem, standing: Standing) -> Item:
    """A snapshot that lies in the remote tier only."""
    if other.loadable and other.manifest is not None and not standing.counts(other.manifest):
        why = why_discarded(other.manifest, standing)
        return Item(other.step, Path(other.name), State.DISCARDED, other.manifest, problem=why)
    return Item(other.step, Path(other.name), _state(other), other.manifest, problem=other.problem)


def _state(item: RemoteItem) -> State:
    return State.COMMITTED if item.loadable else State.CORRUPT


def _tiers(here: str | None, copy: RemoteItem | None, remote: RemoteView | None) -> dict[str, Any]:
    """Where a snapshot lies, and what is to be said of its copy in the remote tier."""
    there = None
    if copy is not None and remote is not None:
        there = {
            "name": copy.name,
            "state": _state(copy).value,
            "problem": copy.problem,
            "kept": [reason.value for reason in remote.verdict.kept.get(copy.step, ())] if copy.loadable else [],
        }
    return {"tiers": [tier for tier in (here, "remote" if there else None) if tier], "remote": there}


def _row(item: Item, verdict: Verdict, steps: Mapping[str, int], now: float, standing: Standing) -> dict[str, Any]:
    manifest, fork = item.manifest, standing.lineage.forked_from
    judged = not item.problem
    parent = manifest.parent if manifest else None
    forked = fork if fork is not None and parent == fork.identity else None
    return {
        "step": item.step,
        "state": item.state.value,
        "problem": item.problem,
        "grade": standing.grade(item.step) if judged else None,
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
        "parent": parent,
        "parent_run": forked.run if forked else None,
        "parent_step": forked.step if forked else steps.get(parent) if parent else None,
        "versions": dict(manifest.versions) if manifest else {},
        "saved_bytes": manifest.image_size - manifest.size if manifest else None,
        "sharded": _sharded(manifest),
        "path": str(item.path),
    }


def _sharded(manifest: Manifest | None) -> dict[str, int] | None:
    """How many tensors lie in parts in several images, in how many images, and the bytes of the wholes."""
    if manifest is None or not manifest.tensors:
        return None
    wholes = manifest.tensors.values()
    ranks = {part.rank for whole in wholes for part in whole.parts}
    return {"tensors": len(wholes), "images": len(ranks), "bytes": sum(whole.size for whole in wholes)}


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
    for name in ("tier", "state", "grade", "metrics", "pinned", "kept for", "parent"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str | Text]:
    return [
        str(row["step"]),
        _size(row["bytes"]),
        _age(row["age_seconds"]),
        "+".join(row["tiers"]),
        Text(row["state"], _STYLES[row["state"]]),
        Text(row["grade"] or "", _GRADES.get(row["grade"], "")),
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
        "tiers": "+".join(row["tiers"]),
        "remote": _remote(row["remote"]),
        "saved_bytes": f"{_size(row['saved_bytes'])}, which several ranks have alike" if row["saved_bytes"] else None,
        "sharded": _parts(row["sharded"]),
    }
    for name, value in shown.items():
        if name not in {"age_seconds", "created", "parent_step", "parent_run"} and value not in (None, ""):
            table.add_row(name, str(value))
    return table


def _metrics(metrics: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in metrics.items()
    )


def _parts(sharded: Mapping[str, int] | None) -> str:
    if sharded is None:
        return ""
    return f"{sharded['tensors']} tensors of {_size(sharded['bytes'])}, in parts in {sharded['images']} images"


def _remote(copy: Mapping[str, Any] | None) -> str:
    return "" if copy is None else f"{copy['name']}: {copy['problem'] or ', '.join(copy['kept']) or copy['state']}"


def _parent(row: Mapping[str, Any]) -> str:
    if row["parent"] is None:
        return ""
    if row["parent_step"] is None:
        return f"{row['parent'][:8]} (gone)"
    return f"{row['parent_run']}:{row['parent_step']}" if row["parent_run"] else str(row["parent_step"])


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
