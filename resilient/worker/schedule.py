"""The schedule: at which step boundaries a snapshot has to become durable. All strategies may be on together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resilient.policy.interval import DurableCost, Pace
from resilient.protocol.settings import SnapshotSettings

_MOST_STEPS = 1000
_TELLING = 0.2  # a change of the interval by less than this part is not worth a word


@dataclass(frozen=True)
class Chosen:
    """The interval between durable snapshots that follows from what they cost.

    :param seconds: between two of them.
    :param cost: seconds of training that one of them costs; 0 while that is not known.
    """

    seconds: float
    cost: float


@dataclass
class _Writing:
    """A snapshot that is on its way to disk."""

    is_held: Callable[[], bool]
    began: float
    cost: float


class Schedule:
    """Every so many steps, every so many seconds since the last one, at the interval that costs prove best, and once
    for each request.

    :param failure_seconds: mean time until memory is lost; what the settings assume if it is None.
    :param restart_seconds: from such a loss to the next step.
    """

    def __init__(
        self,
        settings: SnapshotSettings,
        clock: Callable[[], float],
        *,
        failure_seconds: float | None = None,
        restart_seconds: float = 0.0,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._failure_seconds = settings.failure_seconds if failure_seconds is None else failure_seconds
        self._restart_seconds = restart_seconds
        self._last = clock()
        self._answered = 0
        self._pace = Pace()
        self._imaged = 0
        self._cost = DurableCost()
        self._writing: _Writing | None = None
        self._told = 0.0

    def due(self, step: int, asked: int) -> bool:
        """Whether the snapshot of ``step`` has to become durable.

        :param asked: how many have been asked for so far. Each change of it counts once; those asked for between two
            boundaries are the same snapshot.
        """
        if not self._settings.memory:
            return False
        requested, self._answered = asked != self._answered, asked
        by_step = self._settings.every_steps > 0 and step % self._settings.every_steps == 0
        return requested or by_step or self._clock() - self._last >= self._seconds()

    def _seconds(self) -> float:
        """Seconds after which the next one is due, by whichever of the two that go by time comes first."""
        by_time = self._settings.every_seconds or float("inf")
        return min(by_time, self._best()) if self._settings.auto else by_time

    def _best(self) -> float:
        return self._cost.interval(
            self._failure_seconds,
            self._restart_seconds,
            self._settings.auto_least_seconds,
            self._settings.auto_most_seconds,
        )

    def memory_due(self, step: int) -> bool:
        """Whether to take a memory snapshot of ``step``, durable or not."""
        if not self._settings.memory:
            return False
        if self._settings.memory_every_steps:
            return step % self._settings.memory_every_steps == 0
        return step - self._imaged >= self._pace.memory_interval(self._settings.overhead, _MOST_STEPS)

    def worked(self, seconds: float, *, waited: float = 0.0) -> None:
        """A step's own work took so long.

        :param waited: how long the memory snapshot taken last held the training up meanwhile, which could not go on
            before it was copied.
        """
        self._pace = self._pace.stalled_longer(waited)
        writing = self._writing
        if writing is None:
            self._pace = self._pace.stepped(seconds)
            return
        if self._pace.steps:
            writing.cost += max(0.0, seconds - self._pace.step)
        if not writing.is_held():
            self._cost = self._cost.add(writing.cost, self._clock() - writing.began)
            self._writing = None

    def imaged(self, step: int, seconds: float) -> None:
        """A memory snapshot of ``step`` was taken and held the training up so long."""
        self._imaged = step
        self._pace = self._pace.stalled(seconds)

    def taken(self, is_held: Callable[[], bool]) -> None:
        """One was taken, for whatever reason: the seconds count from now.

        :param is_held: whether it is still on its way to disk.
        """
        self._last = self._clock()
        self._writing = _Writing(is_held, self._last, self._pace.stall)

    def chosen(self) -> Chosen | None:
        """The interval that is kept to now, each time it has changed enough to be told; None otherwise, and where it
        is not ours to choose.
        """
        if not self._settings.auto:
            return None
        best = self._best()
        if self._told and abs(best - self._told) <= _TELLING * self._told:
            return None
        self._told = best
        return Chosen(best, self._cost.training)
