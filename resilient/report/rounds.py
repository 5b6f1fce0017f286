"""What the journal says of each round, and of the time between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.policy.failure_class import FailureClass
from resilient.report.buckets import Bucket
from resilient.report.tenures import Line, Tenure
from resilient.supervisor.time_notes import SPENT

UP = frozenset({"starting", "running", "dumping", "clearing", "stopping"})
"""Phases in which a round is up."""


@dataclass(frozen=True)
class Spent:
    """What a round's boards said at one moment; moments are microseconds since the epoch, amounts microseconds."""

    at: int
    step: int
    attaching: int | None
    ready: int | None
    stepped: int | None
    amounts: Mapping[Bucket, int]

    @property
    def until(self) -> int:
        """Up to when the amounts count."""
        return self.at if self.stepped is None else self.stepped


@dataclass
class Round:
    """One launch of all workers.

    :ivar step: the step that it began after, and ``reached`` the last that it completed.
    :ivar workers: when they were there.
    :ivar over: when the last of them was gone.
    :ivar running: when the first step was seen.
    :ivar signs: when something was noticed to be wrong.
    :ivar undoes: what it makes of the steps before it that it begins in front of.
    :ivar first: nothing was imported by this supervisor before.
    """

    number: int
    tenure: Tenure
    launched: int
    step: int
    source: str
    undoes: Bucket = Bucket.LOST
    first: bool = False
    workers: int | None = None
    running: int | None = None
    over: int | None = None
    reached: int = 0
    signs: list[int] = field(default_factory=list)
    failed: bool = False
    hung: bool = False
    rolled_back: bool = False
    spent: list[Spent] = field(default_factory=list)

    @property
    def last(self) -> Spent | None:
        return self.spent[-1] if self.spent else None


@dataclass
class Stretch:
    """A time in one phase; all of a round's are one."""

    begin: int
    phase: str
    round: Round | None = None


@dataclass(frozen=True)
class Incident:
    """One that was recorded."""

    number: int
    at: int
    data: Mapping[str, Any]

    @property
    def failure(self) -> Mapping[str, Any]:
        found = self.data.get("failure")
        return found if isinstance(found, Mapping) else {}


def walk(tenures: Sequence[Tenure]) -> list[list[Stretch]]:
    """The stretches of each supervisor's time, the first of which begins when it was started."""
    pending = False
    found = []
    for tenure in tenures:
        walker = _Walker(tenure, pending=pending)
        for line in tenure.lines:
            walker.read(line)
        pending = walker.pending
        found.append(walker.stretches)
    return found


def add_spent(rounds: Iterable[Round], tenures: Iterable[Tenure]) -> None:
    """Give the rounds what any supervisor has noted of them; of several nodes, what was longest."""
    known = {one.number: one for one in rounds}
    for tenure in tenures:
        for line in tenure.lines:
            if line.name == SPENT and (found := known.get(_count(line.body.get("round")))) is not None:
                _take(found, _spent(line, tenure))
    for one in known.values():
        one.spent = _folded(sorted(one.spent, key=lambda spent: spent.until))
        if one.last is not None:
            one.reached = max(one.reached, one.last.step)


def incidents_of(tenures: Iterable[Tenure]) -> list[Incident]:
    """All of them, in order."""
    found: dict[int, Incident] = {}
    for tenure in tenures:
        for line in tenure.lines:
            body = line.data.get("incident") if line.name == "RecordIncident" else None
            if isinstance(body, Mapping):
                number = _count(body.get("number"))
                found.setdefault(number, Incident(number, line.at, body))
    return sorted(found.values(), key=lambda incident: incident.at)


def _take(one: Round, spent: Spent) -> None:
    if spent.attaching is not None and spent.attaching < one.launched:
        return  # an older round's, found by a successor that did not know better
    if one.over is not None and spent.at > one.over:
        spent = Spent(one.over, spent.step, spent.attaching, spent.ready, spent.stepped, spent.amounts)
    one.spent.append(spent)


def _folded(found: Sequence[Spent]) -> list[Spent]:
    """One for each moment, each with the most that had been said of the round by then."""
    folded: list[Spent] = []
    for spent in found:
        if folded:
            before = folded[-1]
            amounts = {bucket: max(amount, before.amounts[bucket]) for bucket, amount in spent.amounts.items()}
            attaching, ready = _later(before.attaching, spent.attaching), _later(before.ready, spent.ready)
            spent = replace(spent, attaching=attaching, ready=ready, amounts=amounts)  # noqa: PLW2901  it grows
            if before.until == spent.until:
                folded.pop()
        folded.append(spent)
    return folded


def _later(one: int | None, other: int | None) -> int | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def _spent(line: Line, tenure: Tenure) -> Spent:
    body = line.body

    def moment(name: str) -> int | None:
        found = body.get(name)
        return tenure.placed(float(found)) if isinstance(found, (int, float)) else None

    amounts = {
        bucket: max(0, round(float(body.get(name) or 0.0) * 1e6))
        for bucket, name in ((Bucket.DATA, "fetching"), (Bucket.STALL, "stalled"), (Bucket.EVALUATION, "aside"))
    }
    step = _count(body.get("step"))
    return Spent(line.at, step, moment("attaching"), moment("ready"), moment("stepped"), amounts)


class _Walker:
    """Reads one supervisor's lines."""

    def __init__(self, tenure: Tenure, *, pending: bool) -> None:
        self.pending = pending  # a rollback is decided from whose target no round has begun
        self.stretches = [Stretch(tenure.began, "new")]
        self._tenure = tenure
        self._round: Round | None = None
        self._launched = False

    def read(self, line: Line) -> None:
        if line.phase is not None:
            self._enter(line.phase, line.at)
        handler = getattr(self, f"_{line.name}", None) if line.name in _READ else None
        if handler is not None:
            handler(line)
        elif line.name == "worker launched" and self._round is not None:
            self._round.workers = line.at
        elif line.name == "worker exited" and self._round is not None:
            self._round.reached = max(self._round.reached, _count(line.body.get("step")))
        elif line.name == "own checkpoint" and self._round is not None:
            self._round.step = _count(line.body.get("step"))
            self._round.source = str(line.body.get("source") or "")

    def _enter(self, phase: str, at: int) -> None:
        current = self.stretches[-1]
        if phase in UP and current.phase in UP:
            if phase == "running" and self._round is not None and self._round.running is None:
                self._round.running = at
            if phase == "dumping" and self._round is not None:
                self._round.signs.append(at)
            return
        if current.phase in UP and self._round is not None:
            self._round.over, self._round = at, None
        self.stretches.append(Stretch(at, phase))

    def _RunOpened(self, line: Line) -> None:  # noqa: N802  the entry's name
        self.pending = line.pending

    def _SaveLineage(self, line: Line) -> None:  # noqa: N802
        self.pending = line.pending
        if self.pending and self._round is not None:
            self._round.rolled_back = True

    def _LaunchRound(self, line: Line) -> None:  # noqa: N802
        if self.stretches[-1].phase not in UP:
            self.stretches.append(Stretch(line.at, "starting"))
        step = _count(line.data.get("step"))
        undoes = Bucket.DISCARDED if self.pending else Bucket.LOST
        self._round = Round(
            _count(line.data.get("round")),
            self._tenure,
            line.at,
            step,
            str(line.data.get("source") or ""),
            undoes,
            first=not self._launched,
            reached=step,
        )
        self.stretches[-1].round = self._round
        self.pending, self._launched = False, True

    def _KillWorkers(self, line: Line) -> None:  # noqa: N802
        if self._round is not None:
            self._round.signs.append(line.at)

    def _WorkerExited(self, line: Line) -> None:  # noqa: N802
        one = self._round or next((stretch.round for stretch in reversed(self.stretches) if stretch.round), None)
        if one is not None and line.data.get("failure"):
            one.failed = True
            one.signs.append(line.at)

    _LaunchFailed = _KillWorkers

    def _RecordIncident(self, line: Line) -> None:  # noqa: N802
        body = line.data.get("incident") or {}
        failure = (body.get("failure") or {}).get("failure_class")
        for stretch in reversed(self.stretches):
            if stretch.round is not None:
                if failure == FailureClass.HANG.value and stretch.round.number == body.get("round"):
                    stretch.round.hung = stretch.round.failed = True
                return


_READ = frozenset(
    {
        "KillWorkers",
        "LaunchFailed",
        "LaunchRound",
        "RecordIncident",
        "RunOpened",
        "SaveLineage",
        "WorkerExited",
    }
)


def _count(found: Any) -> int:
    return int(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else 0
