"""The schedule: at which step boundaries a snapshot has to become durable. All strategies may be on together."""

from __future__ import annotations

from collections.abc import Callable

from resilient.policy.interval import Pace
from resilient.protocol.settings import SnapshotSettings

_MOST_STEPS = 1000


class Schedule:
    """Every so many steps, every so many seconds since the last one, and once for each request."""

    def __init__(self, settings: SnapshotSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._last = clock()
        self._answered = 0
        self._pace = Pace()
        self._imaged = 0

    def due(self, step: int, asked: int) -> bool:
        """Whether the snapshot of ``step`` has to become durable.

        :param asked: how many have been asked for so far. Each change of it counts once; those asked for between two
            boundaries are the same snapshot.
        """
        requested, self._answered = asked != self._answered, asked
        by_step = self._settings.every_steps > 0 and step % self._settings.every_steps == 0
        by_time = self._settings.every_seconds > 0 and self._clock() - self._last >= self._settings.every_seconds
        return requested or by_step or by_time

    def memory_due(self, step: int) -> bool:
        """Whether to take a memory snapshot of ``step``, durable or not."""
        if self._settings.memory_every_steps:
            return step % self._settings.memory_every_steps == 0
        return step - self._imaged >= self._pace.memory_interval(self._settings.overhead, _MOST_STEPS)

    def worked(self, seconds: float) -> None:
        """A step's own work took so long."""
        self._pace = self._pace.stepped(seconds)

    def imaged(self, step: int, seconds: float) -> None:
        """A memory snapshot of ``step`` was taken and held the training up so long."""
        self._imaged = step
        self._pace = self._pace.stalled(seconds)

    def taken(self) -> None:
        """One was taken, for whatever reason: the seconds count from now."""
        self._last = self._clock()
