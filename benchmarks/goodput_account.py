"""The goodput benchmark's arithmetic: what a run's record says, and what an operator's waiting makes of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.goodput_trace import Kind
from benchmarks.recovery_log import Line, step_times


@dataclass(frozen=True)
class Intervention:
    """The operator did something. Moments are seconds since the epoch.

    :param since: no step was made from then on; it is also when the operator did something before.
    """

    what: str
    since: float
    at: float

    @property
    def waited(self) -> float:
        return self.at - self.since


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    :param wall: seconds from its start to the first completion of the last step, as measured.
    :param step_seconds: the median of a step.
    :param recorded: steps that were done, repeated ones too.
    :param lines: the whole record.
    """

    contestant: str
    wall: float
    step_seconds: float
    recorded: int
    interventions: tuple[Intervention, ...]
    received: tuple[Kind, ...]
    val_loss: float
    left_behind: tuple[str, ...]
    lines: tuple[Line, ...]

    def with_operator(self, seconds: float) -> float:
        """The wall time, had the operator come so many seconds after the last step, and not as soon as the benchmark
        can tell that somebody is needed: while a job stands still or dies at each start, nothing changes.
        """
        return self.wall + sum(max(0.0, seconds - one.waited) for one in self.interventions)

    @property
    def without_waiting(self) -> float:
        """The wall time, had an operator done each time at once what there was to do."""
        return self.wall - sum(one.waited for one in self.interventions)


def step_seconds(steps: Iterable[Line]) -> float:
    return statistics.median(step_times(steps))


def productive(lines: Sequence[Line]) -> float:
    """Seconds in which the steps were made that the run stands on in the end: of each step the last time that it was
    made, since the line before of the same process.
    """
    last = {line.step: line for line in lines if line.step}
    before: dict[int, float] = {}
    found = 0.0
    for line in lines:
        if line.step and last[line.step] is line:
            found += line.time - before[line.pid]
        before[line.pid] = line.time
    return found


def final_losses(lines: Sequence[Line]) -> dict[int, str]:
    """The loss of each step, as it was made last."""
    return {line.step: line.loss for line in lines if line.step}
