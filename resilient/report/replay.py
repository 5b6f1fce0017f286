"""A journal's decisions, taken again by today's policy core.

Each recorded event is fed to :func:`~resilient.policy.machine.decide`, with the state that the core has come to by
itself. Where it decides as was decided then, it goes on with that state. Where it does not, the difference is noted,
and it goes on from the state that was recorded: what happened afterwards followed from what was decided then. So every
difference stands for itself, and one does not drown the rest.

What would have happened at other times cannot be known. A wait that would have been longer is seen, because something
happens too early; a limit that would have been reached in the middle of a round only where the last look before a
recorded event would have seen it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from resilient.errors import ConfigurationError, JournalUnreadable
from resilient.policy import events
from resilient.policy.decisions import Decision
from resilient.policy.machine import decide
from resilient.policy.state import PolicySettings, RunState
from resilient.protocol.decoding import NotDecodable, decode
from resilient.supervisor.journal import plain
from resilient.supervisor.recorder import patched

_STATE = {name: kind for name, kind in get_type_hints(RunState).items() if name != "settings"}
Change = Callable[[PolicySettings], PolicySettings]
Told = tuple[tuple[str, Mapping[str, Any]], ...]
_NOTHING: Told = ()


@dataclass(frozen=True)
class Line:
    """One line of a journal: an entry, or the reason why it is none."""

    number: int
    entry: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Judged:
    """One event, and what was and would be decided on it.

    :param line: its number in the journal.
    :param time: seconds since the epoch.
    :param then: decisions of that time, each as its name and its fields.
    :param now: decisions of today.
    :param problem: why today's core has no answer, or none that could be compared.
    """

    line: int
    time: float
    event: str
    data: Mapping[str, Any]
    then: Told = ()
    now: Told = ()
    problem: str = ""
    differs: bool = False


@dataclass(frozen=True)
class Replay:
    """What came of it.

    :param problems: lines that could not be read, and what is not known.
    :param state: of the core, after the last event.
    """

    judged: tuple[Judged, ...] = ()
    problems: tuple[str, ...] = ()
    state: RunState = field(default_factory=RunState)

    @property
    def differences(self) -> tuple[Judged, ...]:
        return tuple(one for one in self.judged if one.differs)


def read_lines(path: Path) -> Iterator[Line]:
    """All lines, those that cannot be read among them.

    :raises JournalUnreadable: the file cannot be read at all.
    """
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                yield _line(number, text)
    except OSError as error:
        raise JournalUnreadable(f"{path} cannot be read: {error.strerror}") from error


def _line(number: int, text: bytes) -> Line:
    if not text.strip():
        return Line(number)
    try:
        entry = json.loads(text)
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise TypeError
    except (ValueError, TypeError):
        cut = "" if text.endswith(b"\n") else " (the last line: its writer was killed, or is writing it now)"
        return Line(number, problem=f"line {number} is no entry{cut}")
    return Line(number, entry)


def replay(lines: Iterable[Line], change: Change = lambda settings: settings) -> Replay:
    """Take the decisions again.

    :param change: what the settings are to be, made of those that were recorded.
    """
    core = _Core(change)
    for line, decisions in _events(lines, core.problems):
        core.take(line, decisions)
    return Replay(tuple(core.judged), tuple(core.problems), core.state)


def _events(lines: Iterable[Line], problems: list[str]) -> Iterator[tuple[Line, list[Mapping[str, Any]]]]:
    """Each event with the decisions that follow it."""
    event: Line | None = None
    decisions: list[Mapping[str, Any]] = []
    for line in lines:
        if line.problem:
            problems.append(line.problem)
        kind = line.entry.get("kind")
        if kind == "decision":
            decisions.append(line.entry)
        elif kind == "event":
            if event is not None:
                yield event, decisions
            event, decisions = line, []
    if event is not None:
        yield event, decisions


def _all_events(kind: type[events.Event]) -> dict[str, type[events.Event]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found.update(_all_events(child))
    return found


class _Core:
    """The core of today on one side, what was recorded on the other."""

    def __init__(self, change: Change) -> None:
        self.judged: list[Judged] = []
        self.problems: list[str] = []
        self._change = change
        self._known = _all_events(events.Event)
        self._opened = False
        self._open({}, 0)

    def _open(self, entry: Mapping[str, Any], line: int) -> None:
        """A supervisor begins: everything anew."""
        settings = PolicySettings()
        try:
            settings = decode(PolicySettings, entry.get("settings", {}))
        except (NotDecodable, ValueError, ConfigurationError) as error:
            self.problems.append(f"line {line}: the settings cannot be read, today's defaults are assumed: {error}")
        if line and "settings" not in entry:
            self.problems.append(f"line {line}: the settings are not recorded, today's defaults are assumed")
        self._has_states = "settings" in entry  # journals did not always have them
        self.state = RunState(settings=self._change(settings))
        self._recorded: dict[str, Any] = {name: value for name, value in plain(RunState()).items() if name in _STATE}

    def take(self, line: Line, decisions: list[Mapping[str, Any]]) -> None:
        """One event, with the decisions that were taken on it."""
        entry = line.entry
        name, at = entry["name"], float(entry.get("at", 0.0))
        if name == events.RunOpened.__name__:
            self._open(entry, line.number)
            self._opened = True
        elif not self._opened:
            self._opened = True
            self.problems.append(f"line {line.number}: the journal does not begin with the start of a supervisor")
        self._catch_up(self._patch(line, "before"))
        self._look_once_more(line)
        then = tuple((decision["name"], decision.get("data") or {}) for decision in decisions)
        event = self._decoded(line)
        if event is None:
            self._patch(line, "after")
            self.state = self._as_recorded()
            return
        problem, now, after = "", _NOTHING, self.state
        try:
            after, taken = decide(self.state, event, at)
            now = _told(taken)
        except Exception as error:  # noqa: BLE001  whatever today's core does with it is what we are to find out
            problem = f"{type(error).__name__}: {error}"
        self._patch(line, "after")
        cut_off = len(decisions) < int(entry.get("decisions", len(decisions)))
        if cut_off:  # its writer was killed between two lines
            self.problems.append(f"line {line.number}: not all of its decisions were written down")
            now = now[: len(then)]
        if "error" in entry and problem:  # a bug of then, and still one
            differs = False
        else:
            differs = bool(problem) or not _alike(then, now) or self._elsewhere(after)
        time, data = float(entry.get("time", 0.0)), entry.get("data") or {}
        self.judged.append(Judged(line.number, time, name, data, then, now, problem, differs))
        self.state = self._as_recorded() if differs else after

    def _decoded(self, line: Line) -> events.Event | None:
        name = line.entry["name"]
        kind = self._known.get(name)
        if kind is None:
            self.problems.append(f"line {line.number}: {name} is no event that this version knows")
            return None
        try:
            found: events.Event = decode(kind, line.entry.get("data") or {}, name)
        except (NotDecodable, ValueError) as error:
            self.problems.append(f"line {line.number}: {error}")
            return None
        return found

    def _patch(self, line: Line, which: str) -> list[str]:
        """Bring what is recorded up to date; returns the names of the fields that have changed."""
        changed = []
        for name, change in (line.entry.get(which) or {}).items():
            if name not in _STATE:
                continue  # of another version
            try:
                self._recorded[name] = patched(self._recorded[name], change)
                changed.append(name)
            except (KeyError, TypeError, IndexError):
                self.problems.append(f"line {line.number}: {which}.{name} does not fit what came before it")
        return changed

    def _catch_up(self, changed: Iterable[str]) -> None:
        """What was not written down event by event has changed these fields."""
        self.state = dataclasses.replace(self.state, **self._fields(changed))

    def _fields(self, names: Iterable[str]) -> dict[str, Any]:
        found = {}
        for name in names:
            try:
                found[name] = decode(_STATE[name], self._recorded[name], name)
            except (NotDecodable, ValueError) as error:
                self.problems.append(f"the recorded state cannot be used: {error}")
        return found

    def _as_recorded(self) -> RunState:
        """The state to go on from, after a difference."""
        return dataclasses.replace(self.state, **self._fields(_STATE)) if self._has_states else self.state

    def _elsewhere(self, after: RunState) -> bool:
        return self._has_states and bool(after.phase.value != self._recorded["phase"])

    def _look_once_more(self, line: Line) -> None:
        """The last look before this event, on which nothing was decided."""
        if "ticked" not in line.entry:
            return
        now, problem, at = _NOTHING, "", float(line.entry["ticked"])
        try:
            now = _told(decide(self.state, events.Tick(), at)[1])
        except Exception as error:  # noqa: BLE001  as above
            problem = f"{type(error).__name__}: {error}"
        if now or problem:
            time = float(line.entry.get("time", 0.0)) - float(line.entry.get("at", 0.0)) + at
            self.judged.append(Judged(line.number, time, events.Tick.__name__, {}, (), now, problem, differs=True))


def _told(decisions: Iterable[Decision]) -> Told:
    return tuple((type(decision).__name__, plain(decision)) for decision in decisions)


def _alike(then: Told, now: Told) -> bool:
    return len(then) == len(now) and all(
        old_name == name and _same(old, new) for (old_name, old), (name, new) in zip(then, now, strict=True)
    )


def _same(old: Any, new: Any) -> bool:
    """Whether two plain values say the same; a field that one of the versions does not know says nothing."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return all(_same(old[key], new[key]) for key in old.keys() & new.keys())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(one, other) for one, other in zip(old, new, strict=True))
    return bool(old == new)
