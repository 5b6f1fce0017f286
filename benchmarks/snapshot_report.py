"""From seconds to medians, ratios to the physical limits, and what was wanted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

MEMORY, DISK = "limit: memcpy", "limit: raw O_DIRECT"
OVERLAPPED, BLOCKING = "resilient, overlapped", "resilient, not overlapped"

# column → the limit it is compared with: whose, and which figure of it
COLUMNS = {
    "stall": (MEMORY, "stall"),
    "copied": (MEMORY, "stall"),
    "second": (MEMORY, "stall"),
    "durable": (DISK, "durable"),
    "commit": (DISK, "durable"),
    "load": (DISK, "load"),
    "resume": (DISK, "load"),
    "memory": (MEMORY, "memory"),
}


@dataclass(frozen=True)
class Wanted:
    """A goal: at most ``most`` times the limit, or so many seconds."""

    what: str
    contestant: str
    figure: str
    most: float
    absolute: bool = False


WANTED = (
    Wanted("stall, overlapped", OVERLAPPED, "stall", 0.005, absolute=True),
    Wanted("stall, not overlapped", BLOCKING, "stall", 1.15),
    Wanted("second save while the first is being written, overlapped", OVERLAPPED, "second", 0.005, absolute=True),
    Wanted("call → durable and hashed", BLOCKING, "durable", 1.25),
    Wanted("complete image → durable and hashed", BLOCKING, "commit", 1.25),
    Wanted("load, cold and verified", BLOCKING, "load", 1.25),
    Wanted("load from memory", BLOCKING, "memory", 1.5),
)


@dataclass
class Figures:
    """All that was measured with one state."""

    state: str
    size: int = 0
    tensors: int = 0
    fingerprint: int = 0
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)  # what was observed → how often
    problems: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def admit(self, seat: str, facts: dict[str, Any]) -> None:
        """A seat is ready; all must hold the same bytes."""
        self.fingerprint = self.fingerprint or facts["fingerprint"]
        if facts["fingerprint"] != self.fingerprint:
            raise SystemExit(f"{seat} does not hold the same state as the others: its torch makes other numbers")
        self.size, self.tensors = facts["bytes"], facts["tensors"]
        self.versions[seat] = facts["torch"]

    def add(self, contestant: str, seconds: dict[str, float]) -> None:
        for figure, value in seconds.items():
            self.values.setdefault(contestant, {}).setdefault(figure, []).append(value)

    def note(self, contestant: str, text: str) -> None:
        found = self.notes.setdefault(contestant, {})
        found[text] = found.get(text, 0) + 1

    def problem(self, contestant: str, text: str) -> None:
        self.problems[contestant] = text

    def median(self, contestant: str, figure: str) -> float | None:
        found = self.values.get(contestant, {}).get(figure)
        return statistics.median(found) if found else None

    def ratio(self, contestant: str, figure: str) -> float | None:
        value, limit = self.median(contestant, figure), self.median(*COLUMNS[figure])
        return value / limit if value is not None and limit else None

    def contestants(self) -> list[str]:
        """The limits, then ours, then the others as they came."""
        first = (MEMORY, DISK, OVERLAPPED, BLOCKING)
        return [*(name for name in first if name in self.values), *(name for name in self.values if name not in first)]

    def as_json(self) -> dict[str, Any]:
        medians = {
            contestant: {figure: statistics.median(values) for figure, values in found.items()}
            for contestant, found in self.values.items()
        }
        return {
            "bytes": self.size,
            "tensors": self.tensors,
            "torch": self.versions,
            "medians": medians,
            "seconds": self.values,
            "notes": self.notes,
            "problems": self.problems,
        }


def tables(figures: Figures, title: str) -> Iterator[Table | str]:
    """Medians in milliseconds with their ratios to the limits, then everything that is no number."""
    table = Table("median, ms (× limit)", *COLUMNS, title=title, title_justify="left")
    for contestant in figures.contestants():
        cells = []
        for figure, (limit, _) in COLUMNS.items():
            value, ratio = figures.median(contestant, figure), figures.ratio(contestant, figure)
            own = contestant == limit or ratio is None
            cells.append("" if value is None else f"{value * 1e3:,.1f}" + ("" if own else f" ({ratio:.2f}×)"))
        table.add_row(contestant, *cells)
    yield table
    for contestant, notes in figures.notes.items():
        yield f"{contestant}: a second save {'; '.join(f'{text} ({count}×)' for text, count in notes.items())}"
    yield from (f"NOT MEASURED: {contestant}: {text}" for contestant, text in figures.problems.items())


def verdicts(figures: Figures) -> Iterator[str]:
    """What was wanted, and what came of it; then how far behind the others are."""
    for wanted in WANTED:
        value = figures.median(wanted.contestant, wanted.figure)
        ratio = figures.ratio(wanted.contestant, wanted.figure)
        found = value if wanted.absolute else ratio
        if value is None or found is None:
            continue
        limit = f"{wanted.most * 1e3:g} ms" if wanted.absolute else f"{wanted.most:g}× {COLUMNS[wanted.figure][0]}"
        shown = f"{value * 1e3:,.1f} ms" + ("" if wanted.absolute else f", {ratio:.2f}×")
        yield f"{'met   ' if found <= wanted.most else 'MISSED'} {wanted.what}: {shown}, wanted at most {limit}"
    for figure in ("stall", "copied", "durable", "resume"):
        yield from _against_peers(figures, figure)


def _against_peers(figures: Figures, figure: str) -> Iterator[str]:
    own = [figures.median(name, figure) for name in (OVERLAPPED, BLOCKING)]
    best = min((value for value in own if value is not None), default=None)
    others = {
        name: value
        for name in figures.values
        if name not in (MEMORY, DISK, OVERLAPPED, BLOCKING) and (value := figures.median(name, figure)) is not None
    }
    if best and others:
        listed = ", ".join(f"{name} {value / best:.1f}×" for name, value in sorted(others.items(), key=lambda i: i[1]))
        yield f"{figure}, in multiples of resilient's {best * 1e3:,.1f} ms: {listed}"
