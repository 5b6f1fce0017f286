"""What of the decision core's work goes into the journal, so that it can be done again.

Most events say only that time has passed or that a worker has moved on. They are not written down one by one; what
they have changed is, in the entry of the next event that matters, under ``before``. So a healthy run writes next to
nothing, and whoever reads the journal has the state in which each decision was taken. ``after`` holds what the event
itself has changed. Both hold the fields of :class:`~resilient.policy.state.RunState` that are not as they were; of
a list that has only grown at its end, what was added (see :func:`patch`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resilient.policy.decisions import Decision
from resilient.policy.events import (
    Event,
    MetricsJudged,
    NodesSeen,
    OwnTimesSeen,
    RanksProgressed,
    RunOpened,
    Tick,
    WorkerProgressed,
)
from resilient.policy.machine import UnlistedTransition, decide
from resilient.policy.state import RunState
from resilient.supervisor.journal import Journal, plain

_UNTOLD = (Tick, WorkerProgressed, RanksProgressed, OwnTimesSeen, MetricsJudged, NodesSeen)


class Recorder:
    """Writes events and decisions, in the order in which the core takes them."""

    def __init__(self, journal: Journal, state: RunState) -> None:
        self._journal = journal
        self._known = state
        self._settings = plain(state.settings)
        self._ticked: float | None = None

    def decide(self, state: RunState, event: Event, now: float) -> tuple[RunState, tuple[Decision, ...]]:
        """Let the core decide, and write it down.

        :raises UnlistedTransition: the core has no answer; that is written down as well.
        """
        try:
            after, decisions = decide(state, event, now)
        except UnlistedTransition as error:
            before = differences(self._known, state)
            self._journal.write("event", type(event).__name__, now, data=plain(event), before=before, error=str(error))
            raise
        self.record(event, now, state, after, decisions)
        return after, decisions

    def record(
        self, event: Event, now: float, before: RunState, after: RunState, decisions: Sequence[Decision]
    ) -> None:
        """One event, the states before and after it, and what was decided."""
        if isinstance(event, _UNTOLD) and not decisions and after.phase is before.phase:
            # A tick says something only about the state that it saw.
            self._ticked = now if isinstance(event, Tick) else None
            return
        entry: dict[str, Any] = {"data": plain(event)}
        if isinstance(event, RunOpened):
            entry["settings"] = self._settings
        if self._ticked is not None and not isinstance(event, Tick):
            entry["ticked"] = self._ticked
        entry["before"] = differences(self._known, before)
        entry["after"] = differences(before, after)
        entry["decisions"] = len(decisions)
        told = {key: value for key, value in entry.items() if value or key == "data"}
        self._journal.write("event", type(event).__name__, now, **told)
        for decision in decisions:
            self._journal.record("decision", decision, now)
        self._known, self._ticked = after, None


def differences(old: RunState, new: RunState) -> dict[str, Any]:
    """Fields of ``new`` that ``old`` does not have so, as plain values."""
    found = {}
    for field in dataclasses.fields(RunState):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if field.name != "settings" and was is not now and was != now:
            found[field.name] = _change(was, now)
    return found


def _change(was: Any, now: Any) -> dict[str, Any]:
    """``patch(plain(was), plain(now))``; of very many ranks, only what has changed is made plain."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys() and was:
        changed = {key: (was[key], item) for key, item in now.items() if item is not was[key] and item != was[key]}
        return {"of": {str(key): _change(*pair) for key, pair in changed.items()}}
    if isinstance(was, frozenset) and isinstance(now, frozenset) and len(was) >= 4 and now < was:
        return {"less": plain(was - now)}
    if isinstance(was, tuple) and isinstance(now, tuple) and len(now) > len(was) >= 4 and now[: len(was)] == was:
        return {"drop": 0, "add": plain(now[len(was) :])}
    return patch(plain(was), plain(now))


def patch(old: Any, new: Any) -> dict[str, Any]:
    """How to make ``new`` of ``old``, both plain: ``{"=": value}``; of mappings ``{"of": {key: patch}}``; of a list
    that begins as the old one did, or as its end did, ``{"drop": count, "add": items}``; of a set, ``{"less": items}``.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys() and old:
        return {"of": {key: patch(old[key], new[key]) for key in new if old[key] != new[key]}}
    if isinstance(old, list) and isinstance(new, list) and len(old) >= 4:
        for drop in (0, len(old) + 1 - len(new)):
            kept = old[drop:] if drop >= 0 else None
            if kept and new[: len(kept)] == kept:
                return {"drop": drop, "add": new[len(kept) :]}
    return {"=": new}


def patched(old: Any, change: Mapping[str, Any]) -> Any:
    """The inverse of :func:`patch`.

    :raises KeyError, TypeError: ``change`` does not belong to ``old``.
    """
    if "=" in change:
        return change["="]
    if "of" in change:
        return {**old, **{key: patched(old[key], inner) for key, inner in change["of"].items()}}
    if "less" in change:
        return [item for item in old if item not in change["less"]]
    return [*old[change["drop"] :], *change["add"]]
