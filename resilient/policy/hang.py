"""How long a silence is too long: limits learned from the run itself, for each phase its own.

What counts is the progress of the step, not of any thread: a worker stuck in a collective keeps its threads alive. A
silence of a phase is a hang when it is ``factor`` times as long as the slowest of the latest that the phase is known
to take, and never before ``min_seconds``.

* *Steps*: the slowest of the last 32. One step that is more than ``factor`` times as slow as all others among them is
  left out, for once is an accident (another job's burst on the file system) and would stretch the limit for a long
  time; twice is a habit.
* *Declared phases* (``run.phase("eval")`` and any other name) and *start-up* (from the launch to the end of the first
  step, compilation included): the slowest of the last 32, whatever the others took. They are rare and differ for good
  reasons: a full evaluation between small ones, a cold cache on another machine.
* What has not been seen yet is given ``startup_seconds`` or ``phase_seconds``; the first whole step at least the time
  that start-up took, which had a step in it.

What was learned goes with the snapshots, so that a run that is requeued on another machine still knows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from resilient.errors import ConfigurationError
from resilient.policy.changed import changed

STARTUP, STEP, FINISHED = "startup", "step", "finished"
_MOST_PHASES = 16  # names that a rank's watch remembers; a script that makes up new ones for ever learns the latest


@dataclass(frozen=True)
class HangSettings:
    """The section ``hang`` of the configuration; all in seconds but ``factor``.

    :param enabled: watch for hangs at all.
    :param startup_seconds: limit from launch to the first step (imports, compilation, restoring), until one start-up
        has been seen.
    :param min_seconds: nothing that was seen before is called hung before this.
    :param factor: times the slowest recent duration of the phase.
    :param phase_seconds: limit of a phase that the script declares, such as an evaluation, and of reading a snapshot
        into memory, until one has been seen.
    :param stack_seconds: how long the stacks of a hung group may take to be written before it is killed; 0 for no
        stacks.
    """

    enabled: bool = True
    startup_seconds: float = 1800.0
    min_seconds: float = 300.0
    factor: float = 10.0
    phase_seconds: float = 3600.0
    stack_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigurationError(f"hang.factor must be at least 1, not {self.factor}")
        for name in ("startup_seconds", "min_seconds", "phase_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"hang.{name} must be more than 0 seconds, not {getattr(self, name)}")
        if not 0 <= self.stack_seconds < math.inf:
            raise ConfigurationError(f"hang.stack_seconds must be 0 or more seconds, not {self.stack_seconds}")

    @property
    def shortest(self) -> float:
        """Seconds of silence that are no hang in any phase."""
        return min(self.min_seconds, self.startup_seconds, self.phase_seconds)

    def limit_of(self, phase: str, known: float | None) -> float:
        """Seconds that ``phase`` may take, when it is known to take ``known`` seconds or is not known yet."""
        if known is not None:
            return max(self.min_seconds, self.factor * known)
        return self.startup_seconds if phase == STARTUP else self.phase_seconds


@dataclass(frozen=True)
class HangWatch:
    """Progress of one rank.

    :ivar since: when it last showed a sign of progress.
    :ivar began: when the start-up began, where signs of life have come since; they do not make it a shorter one.
    :ivar step: the last step it completed.
    :ivar recent: the latest durations of each phase, oldest first.
    """

    WINDOW = 32
    since: float
    phase: str = STARTUP
    step: int = 0
    recent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    began: float | None = None

    @classmethod
    def knowing(cls, durations: Mapping[str, float], now: float) -> HangWatch:
        """The watch of a rank that was just launched. What is known counts twice: it is no accident."""
        return cls(now, recent={phase: (seconds, seconds) for phase, seconds in durations.items()})

    def progressed(self, phase: str, now: float, step: int | None = None) -> HangWatch:
        """The rank moved on, to ``phase``. What it leaves has a duration to learn from; but of a step only when it is
        whole, and of its end nothing.
        """
        began = self.since if self.began is None else self.began
        moved = changed(self, since=now, phase=phase, step=self.step if step is None else step, began=None)
        if self.phase == phase == STARTUP:
            return changed(moved, began=began)
        if self.phase == FINISHED or (self.phase == STEP and phase != STEP):
            return moved
        recent = {**self.recent, self.phase: (*self.recent.get(self.phase, ()), now - began)[-self.WINDOW :]}
        if len(recent) > _MOST_PHASES:
            del recent[next(name for name in recent if name not in (STEP, STARTUP, self.phase))]
        return changed(moved, recent=recent)

    def slowest(self, phase: str, factor: float) -> float | None:
        """What the phase is known to take at the most, in seconds; None when it has not been seen."""
        durations = self.recent.get(phase)
        if not durations:
            return None
        return _without_an_accident(durations, factor) if phase == STEP else max(durations)

    def limit(self, settings: HangSettings) -> float:
        """Seconds of silence after which the rank is hung."""
        if self.phase == FINISHED:
            return math.inf  # the script's own last work; a preemption's escalation still ends it
        known = self.slowest(self.phase, settings.factor)
        if known is None and self.phase == STEP:
            return max(settings.min_seconds, self.slowest(STARTUP, settings.factor) or 0.0)
        limit = settings.limit_of(self.phase, known)
        if known is None and self.phase != STARTUP:  # where steps take hours, so may an evaluation
            return max(limit, settings.factor * (self.slowest(STEP, settings.factor) or 0.0))
        return limit

    def is_hung(self, settings: HangSettings, now: float) -> bool:
        silence = now - self.since
        if not settings.enabled or silence <= settings.shortest:
            return False  # nearly always, and at no cost
        return silence > self.limit(settings)


def _without_an_accident(durations: Sequence[float], factor: float) -> float:
    first = second = 0.0
    for seconds in durations:
        first, second = (seconds, first) if seconds > first else (first, max(second, seconds))
    return second if len(durations) > 1 and first > factor * second else first


def durations_of(watches: Iterable[HangWatch], factor: float) -> dict[str, float]:
    """What the phases are known to take at the most, in seconds, on the slowest of the ranks."""
    known: dict[str, float] = {}
    for watch in watches:
        for phase in watch.recent:
            seconds = watch.slowest(phase, factor)
            known[phase] = max(known.get(phase, 0.0), seconds or 0.0)
    return known
