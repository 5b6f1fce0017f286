"""Where a metric stands, and how far its values scatter: the measure that every verdict is taken with.

*Level*: the median of the last accepted values. *Scatter*: quantiles of how far each accepted value lay from the level
just before it. Both are deaf to outliers; and because the distances are taken to a level that moves along, a loss that
falls fast does not look like one that scatters widely. The upper quantiles count as well as the quartiles, for losses
of small batches have a long tail on that side and a normal distribution's width would say nothing of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

LARGEST = 1e150  # values are cut off here, so that no sum or square of two of them overflows
_FADE = 1 / 500  # the start is forgotten at this rate: a run that fell from 10,000 to 1 is not judged by 10,000
_LEAST_STAKE = 1e-3  # … but not below this share of it


def bounded(value: float) -> float:
    """A finite value, cut off at ±1e150; −0 becomes 0, so that sorting has one answer."""
    return max(-LARGEST, min(LARGEST, value)) + 0.0


@dataclass(frozen=True)
class Baseline:
    """The accepted values of one metric, as far as they matter.

    :param recent: the last ones, oldest first.
    :param residuals: distance of each of the last ones to the level before it, oldest first.
    :param ordered: the same, sorted.
    :param quantum: the smallest difference ever between two values in a row: the last digit of a rounded metric, and
        next to nothing for any other. 0 while none is known.
    :param start: the first level.
    :param reference: the first level, fading towards the present one.
    :param count: how many were accepted.
    """

    recent: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    ordered: tuple[float, ...] = ()
    quantum: float = 0.0
    start: float = 0.0
    reference: float = 0.0
    count: int = 0

    @cached_property
    def level(self) -> float:
        """The median of the recent values; 0 before the first."""
        ordered = sorted(self.recent)
        return ordered[len(ordered) // 2] if ordered else 0.0

    @cached_property
    def centre(self) -> float:
        """Where the next value is expected: the level, and how far values have lain from it of late (the trend)."""
        return self.level + _quantile(self.ordered, 0.5)

    @cached_property
    def spread(self) -> float:
        """One standard deviation of a normal distribution; the width of the upper tail if that is wider."""
        middle = _quantile(self.ordered, 0.5)
        quartiles = (_quantile(self.ordered, 0.75) - _quantile(self.ordered, 0.25)) / 1.349
        tail = (_quantile(self.ordered, 0.95) - middle) / 1.645
        return max(quartiles, tail, (_quantile(self.ordered, 0.98) - middle) / 2.054)

    @cached_property
    def stake(self) -> float:
        """What the metric stands for: its level or, where that is near 0, what has been gained since the start."""
        level = self.level
        return max(abs(level), abs(self.reference - level), _LEAST_STAKE * abs(self.start))

    def scale(self, floor: float) -> float:
        """The unit that values are judged in, never below ``floor`` of the stake nor below the last digit."""
        return max(self.spread, self.quantum, floor * self.stake)

    def add(self, value: float, window: int, level_window: int) -> Baseline:
        """One more value is accepted; finite and :func:`bounded`."""
        if not self.recent:
            return replace(self, recent=(value,), start=value, reference=value, count=1)
        level, step = self.level, abs(value - self.recent[-1])
        quantum = min(self.quantum or step, step) if step else self.quantum
        residuals, ordered = _slide(self.residuals, self.ordered, value - level, window)
        settled = self.count >= level_window  # the first level is that of the first full window
        return Baseline(
            recent=(*self.recent, value)[-level_window:],
            residuals=residuals,
            ordered=ordered,
            quantum=quantum,
            start=self.start if settled else level,
            reference=self.reference + _FADE * (level - self.reference) if settled else level,
            count=self.count + 1,
        )

    def stretch(self, residual: float, window: int) -> Baseline:
        """A value lay outside and turned out to be alone: its distance counts, cut off by the caller, and nothing
        else of it. Where such values are common they widen the scale, until they are no longer called high.
        """
        residuals, ordered = _slide(self.residuals, self.ordered, residual, window)
        return replace(self, residuals=residuals, ordered=ordered)

    def to_json(self) -> dict[str, Any]:
        return {
            "recent": list(self.recent),
            "residuals": list(self.residuals),
            "quantum": self.quantum,
            "start": self.start,
            "reference": self.reference,
            "count": self.count,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Baseline:
        residuals = tuple(map(float, saved["residuals"]))
        return cls(
            recent=tuple(map(float, saved["recent"])),
            residuals=residuals,
            ordered=tuple(sorted(residuals)),
            quantum=float(saved["quantum"]),
            start=float(saved["start"]),
            reference=float(saved["reference"]),
            count=int(saved["count"]),
        )


def _slide(
    residuals: tuple[float, ...], ordered: tuple[float, ...], new: float, window: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both windows with ``new`` in and the oldest out; several out where the window has been made smaller."""
    order = list(ordered)
    insort(order, new)
    residuals = (*residuals, new)
    for oldest in residuals[: max(0, len(residuals) - window)]:
        del order[bisect_left(order, oldest)]
    return residuals[-window:], tuple(order)


def _quantile(ordered: tuple[float, ...], share: float) -> float:
    return ordered[int(share * len(ordered))] if ordered else 0.0
