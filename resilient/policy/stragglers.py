"""Ranks that are always slower than their peers.

In synchronous training all ranks take the same time for a step, for they wait for each other; what tells them apart is
the time a rank spends on its own: waiting for its data, and computing its forward pass. A rank whose own time is
``factor`` times the median of its peers', and ``min_seconds`` above it, for so many steps in a row, is named; once, and
once more when it has been back among the others for as many steps. Between the two limits nothing changes, so that a
rank near the limit is not named again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from resilient.errors import ConfigurationError


@dataclass(frozen=True)
class StragglerSettings:
    """The section ``stragglers`` of the configuration.

    :param enabled: measure and name them, where there is more than one rank.
    :param factor: times the median of a rank's peers.
    :param min_seconds: and at least so many seconds of a step above it.
    :param steps: for so many steps in a row.
    """

    enabled: bool = True
    factor: float = 1.5
    min_seconds: float = 0.01
    steps: int = 50

    def __post_init__(self) -> None:
        if self.factor <= 1:
            raise ConfigurationError(f"stragglers.factor must be more than 1, not {self.factor}")
        if self.min_seconds < 0:
            raise ConfigurationError(f"stragglers.min_seconds must be 0 or more, not {self.min_seconds}")
        if self.steps < 1:
            raise ConfigurationError(f"stragglers.steps must be at least 1, not {self.steps}")


class OwnWork(str, Enum):
    """What a rank spends its own time on."""

    DATA = "data"
    COMPUTE = "compute"


@dataclass(frozen=True)
class OwnTime:
    """What a rank spent on its own in the latest steps, in seconds for one step, smoothed.

    :param step: the step after which this was so.
    """

    step: int
    data: float
    compute: float

    @property
    def total(self) -> float:
        return self.data + self.compute


@dataclass(frozen=True)
class Straggler:
    """A rank that is slower than its peers, or, with ``over``, was until now.

    :param factor: its own time over the median of its peers'.
    :param what: on which of the two it spends more than they do.
    :param seconds: how much more it takes for a step.
    """

    rank: int
    step: int
    factor: float
    what: OwnWork
    seconds: float
    over: bool = False

    def __str__(self) -> str:
        if self.over:
            return f"rank {self.rank} keeps up with its peers again, since step {self.step} at the latest"
        doing = "waiting for its data" if self.what is OwnWork.DATA else "computing the forward pass"
        return (
            f"rank {self.rank} is a straggler: it takes {self.factor:.1f} times as long as its peers, "
            f"{self.seconds:.3f} s more in each step, {doing} (seen up to step {self.step})"
        )


@dataclass(frozen=True)
class StragglerWatch:
    """Who is being watched.

    :ivar turned: the step at which a rank was first seen on the other side of its limit, in a row.
    :ivar named: the ranks that were named and have not come back.
    """

    turned: Mapping[int, int] = field(default_factory=dict)
    named: frozenset[int] = frozenset()

    def observed(
        self, times: Mapping[int, OwnTime], settings: StragglerSettings
    ) -> tuple[StragglerWatch, tuple[Straggler, ...]]:
        """Take the ranks' own times into account; returns what is to be said of them."""
        if len(times) < 2 or not settings.enabled:
            return self, ()
        usual = _MedianOfOthers([own.total for own in times.values()])
        turned: dict[int, int] = {}
        found: list[Straggler] = []
        for rank, own in times.items():
            median = usual.without(own.total)
            is_named = rank in self.named
            factor = 1 + (settings.factor - 1) / 2 if is_named else settings.factor
            over = own.total > factor * median and own.total - median > settings.min_seconds / (2 if is_named else 1)
            if over is is_named:
                continue
            since = min(self.turned.get(rank, own.step), own.step)
            turned[rank] = since
            if own.step - since >= settings.steps:
                del turned[rank]
                found.append(_straggler(rank, times, median, over=is_named))
        named = (self.named | {one.rank for one in found if not one.over}) - {one.rank for one in found if one.over}
        return replace(self, turned=turned, named=named), tuple(found)


class _MedianOfOthers:
    """The median of all values but one, for each of them, from one sort."""

    def __init__(self, values: list[float]) -> None:
        self._sorted = sorted(values)

    def without(self, value: float) -> float:
        """The median of the others; the lower of the middle two, for a straggler among two peers is no measure."""
        middle = (len(self._sorted) - 2) // 2
        at_or_before = value <= self._sorted[middle]
        return self._sorted[middle + 1] if at_or_before else self._sorted[middle]


def _straggler(rank: int, times: Mapping[int, OwnTime], median: float, *, over: bool) -> Straggler:
    own = times[rank]
    data = own.data - _MedianOfOthers([other.data for other in times.values()]).without(own.data)
    compute = own.compute - _MedianOfOthers([other.compute for other in times.values()]).without(own.compute)
    what = OwnWork.DATA if data >= compute else OwnWork.COMPUTE
    return Straggler(rank, own.step, own.total / max(median, 1e-9), what, own.total - median, over)
