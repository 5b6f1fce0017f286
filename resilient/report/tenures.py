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
from resilient.supervisor.time_notes import BEGAN, ENDED, SPENT

SECOND = 1_000_000
_JUMP = 50_000  # microseconds by which the wall clock may drift before it is looked at more closely
_DECIDING = frozenset({"LaunchRound", "RecordIncident", "EndRun"})
_TELLING = frozenset(
    {"LaunchRound", "RecordIncident", "WorkerExited", "Persisted", "Uploaded"}
    | {"worker exited", "own checkpoint", SPENT}
)
"""Entries of which all is read. What the others have besides is let go: a long run's journal is large, and Python's
collector would go through all that is kept again and again.
"""


@dataclass(frozen=True)
class Line:
    """One entry of a journal.

    :param at: when it was written.
    :param phase: that the run is in from then on; None where it stays as it is.
    :param pending: whether the run is to be taken back, of an entry that has the lineage.
    :param body: all that it has besides, if its name is one of those of which all is read.
    """

    at: int
    name: str
    phase: str | None
    pending: bool
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
    tenure.lines.append(Line(moment, name, _phase(entry), _pending(entry), _body(name, entry)))
    tenure.ended = moment


def _phase(entry: Mapping[str, Any]) -> str | None:
    after = entry.get("after")
    change = after.get("phase") if isinstance(after, dict) else None
    found = change.get("=") if isinstance(change, dict) else None
    return str(found) if found is not None else None


def _pending(entry: Mapping[str, Any]) -> bool:
    data = entry.get("data")
    lineage = data.get("lineage") if isinstance(data, dict) else None
    return isinstance(lineage, dict) and bool(lineage.get("pending"))


def _body(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in entry.items() if key != "after"} if name in _TELLING else {}


def _number(found: Any) -> float | None:
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None
