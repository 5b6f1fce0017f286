"""All journals of a run as one history: who supervised it when, on one clock.

Each supervisor's entries have the monotonic clock of their machine, which does not jump and means nothing elsewhere,
and the wall clock, which may jump and means the same everywhere. So each supervisor's time is placed by the wall clock
of its first entry, and by the monotonic clock from there on. Moments are integers, microseconds since the epoch, so
that what is divided adds up again.

Where a run spans several nodes, one supervisor decides and the others only report: what counts is the journal with
the decisions; of the others, what their ranks have spent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.supervisor.journal import read_journal
from resilient.supervisor.time_notes import BEGAN, ENDED

SECOND = 1_000_000
_JUMP = 50_000  # microseconds by which the wall clock may drift before it is looked at more closely
_DECIDING = frozenset({"LaunchRound", "RecordIncident", "EndRun"})


@dataclass(frozen=True)
class Line:
    """One entry of a journal.

    :param at: when it was written.
    """

    at: int
    name: str
    body: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """Of an event or a decision, its fields."""
        found = self.body.get("data")
        return found if isinstance(found, Mapping) else {}


@dataclass
class Tenure:
    """The time in which one supervisor had the run.

    :ivar began: when it was started.
    :ivar ended: its end, as far as that is known.
    :ivar closed: it came to its end in good order; with what exit code, ``exit_code`` says.
    """

    host: str
    began: int
    ended: int
    lines: list[Line] = field(default_factory=list)
    exit_code: int | None = None
    closed: bool = False
    anchor: tuple[int, float] = (0, 0.0)
    walls: list[int] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)

    @property
    def decides(self) -> bool:
        return any(line.name in _DECIDING for line in self.lines)

    def placed(self, monotonic: float) -> int:
        """A moment on the monotonic clock of its machine, in seconds."""
        return self.anchor[0] + round((monotonic - self.anchor[1]) * SECOND)

    def placed_wall(self, seconds: float) -> int:
        """A moment on the wall clock of its machine, seconds since the epoch."""
        wall = round(seconds * SECOND)
        if not self.shifts:
            return wall
        return wall - self.shifts[max(0, bisect_right(self.walls, wall) - 1)]


def read_tenures(journals: Path) -> list[Tenure]:
    """Of all journals in that directory, in the order in which they began."""
    found = [
        tenure for path in sorted(journals.glob("*.jsonl")) for tenure in split_tenures(path.stem, read_journal(path))
    ]
    return sorted(found, key=lambda tenure: tenure.began)


def deciding(tenures: Sequence[Tenure]) -> list[Tenure]:
    """Those whose supervisor decided for the run; one that came to no decision counts where nobody else had the run."""
    chosen = [tenure for tenure in tenures if tenure.decides]
    for tenure in tenures:
        if not tenure.decides and not any(one.began <= tenure.began < one.ended for one in chosen):
            chosen.append(tenure)
    return sorted(chosen, key=lambda tenure: tenure.began)


def split_tenures(host: str, entries: Iterable[Mapping[str, Any]]) -> list[Tenure]:
    """One journal's."""
    found: list[Tenure] = []
    opened = False
    for entry in entries:
        name, wall, at = str(entry.get("name", "")), _number(entry.get("time")), _number(entry.get("at"))
        if wall is None or not at:  # what is not to do with the run's time has no clock
            continue
        if name == BEGAN or (name == "RunOpened" and opened) or not found:
            age = (_number(entry.get("age")) or 0.0) if name == BEGAN else 0.0
            moment = round(wall * SECOND)
            found.append(
                Tenure(str(entry.get("host", host)), moment - round(age * SECOND), moment, anchor=(moment, at))
            )
            opened = False
        opened = opened or name == "RunOpened"
        _add(found[-1], name, wall, at, entry)
    return found


def _add(tenure: Tenure, name: str, wall: float, at: float, entry: Mapping[str, Any]) -> None:
    if name in {ENDED, "EndRun"}:
        code = entry.get("exit_code") if name == ENDED else (entry.get("data") or {}).get("exit_code")
        tenure.exit_code = code if isinstance(code, int) else tenure.exit_code
        tenure.closed = True
    elif tenure.closed and name != "RunOpened" and tenure.lines[-1].name == ENDED:
        return  # by a start that found nothing to do
    moment = max(tenure.ended, tenure.placed(at))
    shift = round(wall * SECOND) - moment
    if not tenure.shifts or abs(shift - tenure.shifts[-1]) > _JUMP:
        tenure.walls.append(round(wall * SECOND))
        tenure.shifts.append(shift)
    tenure.lines.append(Line(moment, name, entry))
    tenure.ended = moment


def _number(found: Any) -> float | None:
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None
