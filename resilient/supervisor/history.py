"""What a run's journal says of the time before this supervisor: how long it was up, how often memory was lost, and
which rounds failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.errors import ExitCode
from resilient.policy.events import Tier
from resilient.policy.failed_rounds import FailedRound, History
from resilient.policy.failures import Failure, FailureClass

_GOES_ON = frozenset({ExitCode.REQUEUE, ExitCode.TERMINATED})


@dataclass(frozen=True)
class FailedRounds:
    """The rounds that failed, each at seconds since the epoch.

    They are forgotten when the run has ended with a diagnosis: somebody who has read it and starts the run again has
    all its budgets. They are kept over a preemption, or whatever ended the supervisor: nobody has looked.
    """

    history: History = field(default_factory=History)

    def on_clock(self, now: float, epoch: float | None = None) -> History:
        """The same on the supervisor's clock, which reads ``now``."""
        shift = now - (time.time() if epoch is None else epoch)
        return History(tuple(replace(failed, at=failed.at + shift) for failed in self.history.rounds))


@dataclass(frozen=True)
class RunHistory:
    """What happened before this supervisor.

    :param incidents: how many there were.
    :param last_round: the highest round that was to be launched; -1 when there was none.
    :param up: seconds that supervisors were up.
    :param losses: how often a supervisor ended without having made everything durable, and its successor did not find
        the rest in memory.
    :param restore: seconds that the last restore from a durable snapshot took; 0 if there was none.
    :param failed: the failures that count against budgets.
    :param durations: seconds that each phase was known to take at the most.
    :param group: the nodes that trained together last, in the order of their ranks.
    """

    incidents: int = 0
    last_round: int = -1
    up: float = 0.0
    losses: int = 0
    restore: float = 0.0
    failed: FailedRounds = field(default_factory=FailedRounds)
    durations: Mapping[str, float] = field(default_factory=dict)
    group: tuple[str, ...] = ()


def read_history(entries: Iterable[Mapping[str, Any]]) -> RunHistory:
    """Read the whole journal once; entries that are not as they should be say nothing."""
    history, began, last, unsafe, undecided = RunHistory(), 0.0, 0.0, False, False
    for entry in entries:
        name, data = entry.get("name"), entry.get("data") or {}
        time = float(entry.get("time", last))
        if name == "RunOpened":
            history, began = replace(history, up=history.up + max(0.0, last - began)), time
            # the images of a rollback that was not finished are not lost, they are discarded
            undecided, unsafe = unsafe and not (data.get("lineage") or {}).get("pending"), True
        elif name == "FlushEnded":
            unsafe = bool(data.get("late"))
        elif name == "LaunchRound":
            lost = undecided and data.get("source") != Tier.MEMORY.value
            number = max(history.last_round, int(data.get("round", -1)))
            history, undecided = replace(history, losses=history.losses + lost, last_round=number), False
        elif name == "RecordIncident":
            history = _with_incident(history, data, time)
        elif name == "EndRun" and data.get("exit_code") not in _GOES_ON:
            history = replace(history, failed=FailedRounds())
        elif name == "Restored":
            history = replace(history, restore=float(data.get("seconds", 0.0)))
        elif name == "group formed":
            history = replace(history, group=tuple(map(str, entry.get("ranks") or ())))
        elif name == "phase durations":
            history = replace(history, durations=_numbers(entry.get("durations")))
        last = time
    return replace(history, up=history.up + max(0.0, last - began))


def _with_incident(history: RunHistory, data: Mapping[str, Any], time: float) -> RunHistory:
    number = (data.get("incident") or {}).get("number", 0)
    history = replace(history, incidents=max(history.incidents + 1, int(number)))
    charged = data.get("charged")
    if not charged:
        return history
    try:
        failure = Failure(
            FailureClass(charged["failure"]["failure_class"]),
            charged["failure"]["signature"],
            charged["failure"].get("message", ""),
        )
        failed = FailedRound(
            failure,
            int(charged["furthest"]),
            int(charged["step"]),
            time,
            int(charged["needed"]),
            lasted=bool(charged["lasted"]),
            rank=charged.get("rank"),
        )
    except (KeyError, TypeError, ValueError):
        return history
    return replace(history, failed=FailedRounds(history.failed.history.add(failed)))


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}
