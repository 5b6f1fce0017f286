"""How long a silence is too long: a limit learned from the run itself.

A step that takes ``factor`` times as long as the slowest recent one, and never less than ``min_seconds``, is a hang.
What counts is the progress of the step, not of any thread: a worker stuck in a collective keeps its threads alive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from resilient.errors import ConfigurationError


@dataclass(frozen=True)
class HangSettings:
    """The section ``hang`` of the configuration; all in seconds but ``factor``.

    :param enabled: watch for hangs at all.
    :param startup_seconds: from launch to the first step (imports, compilation, restoring).
    :param min_seconds: a step is never called hung before this.
    :param factor: times the slowest recent step.
    :param phase_seconds: least limit of a phase that the script declares, such as an evaluation.
    """

    enabled: bool = True
    startup_seconds: float = 1800.0
    min_seconds: float = 300.0
    factor: float = 10.0
    phase_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigurationError(f"hang.factor must be at least 1, not {self.factor}")
        for name in ("startup_seconds", "min_seconds", "phase_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"hang.{name} must be more than 0 seconds, not {getattr(self, name)}")


@dataclass(frozen=True)
class HangWatch:
    """Progress of one rank. O(1) per step: only the slowest of the last steps is needed."""

    WINDOW = 32
    since: float
    phase: str = "startup"
    recent: tuple[float, ...] = ()

    def progressed(self, phase: str, now: float) -> HangWatch:
        """The rank moved on, to ``phase``. Only whole steps teach the limit: start-up and evaluations are other
        things.
        """
        if self.phase == phase == "step":
            return replace(self, since=now, recent=(*self.recent, now - self.since)[-self.WINDOW :])
        return replace(self, since=now, phase=phase)

    def limit(self, settings: HangSettings) -> float:
        """Seconds of silence after which the rank is hung."""
        if self.phase == "startup":
            return settings.startup_seconds
        if self.phase == "finished":
            return math.inf  # the script's own last work; a preemption's escalation still ends it
        learned = settings.factor * max(self.recent, default=0.0)
        if self.phase != "step":
            return max(settings.phase_seconds, learned)
        return max(settings.min_seconds, learned)

    def is_hung(self, settings: HangSettings, now: float) -> bool:
        return settings.enabled and now - self.since > self.limit(settings)
