"""What a run's journal says of the machines it has been on: how long it was up, and how often memory was lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.policy.events import Tier


@dataclass(frozen=True)
class RunHistory:
    """What happened before this supervisor.

    :param incidents: how many there were.
    :param up: seconds that supervisors were up.
    :param losses: how often a supervisor ended without having made everything durable, and its successor did not find
        the rest in memory.
    :param restore: seconds that the last restore from a durable snapshot took; 0 if there was none.
    :param durations: seconds that each phase was known to take at the most.
    """

    incidents: int = 0
    up: float = 0.0
    losses: int = 0
    restore: float = 0.0
    durations: Mapping[str, float] = field(default_factory=dict)


def read_history(entries: Iterable[Mapping[str, Any]]) -> RunHistory:
    """Read the whole journal once; entries that are not as they should be say nothing."""
    history, began, last, unsafe, undecided = RunHistory(), 0.0, 0.0, False, False
    for entry in entries:
        name, data = entry.get("name"), entry.get("data") or {}
        time = float(entry.get("time", last))
        if name == "RunOpened":
            history, began = replace(history, up=history.up + max(0.0, last - began)), time
            undecided, unsafe = unsafe, True
        elif name == "FlushEnded":
            unsafe = bool(data.get("late"))
        elif name == "LaunchRound":
            lost = undecided and data.get("source") != Tier.MEMORY.value
            history, undecided = replace(history, losses=history.losses + lost), False
        elif name == "RecordIncident":
            history = replace(history, incidents=history.incidents + 1)
        elif name == "Restored":
            history = replace(history, restore=float(data.get("seconds", 0.0)))
        elif name == "phase durations":
            history = replace(history, durations=_numbers(entry.get("durations")))
        last = time
    return replace(history, up=history.up + max(0.0, last - began))


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}
