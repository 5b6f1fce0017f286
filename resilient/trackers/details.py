"""What trackers are told: one frozen object for whatever happens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """What has happened."""

    STARTED = "started"
    METRICS = "metrics"
    SNAPSHOT = "snapshot"
    INCIDENT = "incident"
    ROLLBACK = "rollback"
    PREEMPTING = "preempting"
    RESUMED = "resumed"
    ENDED = "ended"


@dataclass(frozen=True)
class Details:
    """Something that has happened to a run.

    :param run: its id.
    :param round: the round in which it happened.
    :param lineage: how many rollbacks came before. What a lineage has after the step that the next rollback went back
        to is discarded.
    :param step: the last completed step, or the one that is meant.
    :param time: seconds since the epoch.
    :param words: a sentence for people; empty with metrics.
    :param values: metrics as they were reported.
    :param facts: what else is known: of ``started`` ``first`` and ``host``; of ``metrics`` ``seconds`` since the step
        before, or None, and ``repeated``; of ``snapshot`` ``tier``, ``bytes`` and ``seconds``; of ``incident``
        ``number``, ``class``, ``rank``, ``remedy`` and ``message``; of ``rollback`` ``target``, ``reached``, ``cause``
        and ``lr_factor``; of ``preempting`` ``grace``; of ``resumed`` ``source``, or None; of ``ended`` ``exit_code``.
    """

    kind: Kind
    run: str
    round: int
    lineage: int
    step: int
    time: float
    words: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; a number that JSON does not have is a string."""
        return {
            "kind": self.kind.value,
            "run": self.run,
            "round": self.round,
            "lineage": self.lineage,
            "step": self.step,
            "time": self.time,
            "words": self.words,
            "values": {name: value if math.isfinite(value) else repr(value) for name, value in self.values.items()},
            "facts": dict(self.facts),
        }
