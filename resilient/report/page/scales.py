"""From values to places in a picture that is as wide as its page: per mille of its width or height."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

FULL = 1000.0
"""Width and height of every picture, in its own units."""


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from ``low`` to ``high``."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """0 at ``low``, ``FULL`` at ``high``; what lies outside is at the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return FULL * (at - low) / (high - low) if high > low else FULL / 2

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) >= 4:
            return found[:: max(1, len(found) // 5)]
    return found or [low, high]


def span_of(values: Iterable[float], margin: float = 0.05) -> tuple[float, float]:
    """The least and the greatest finite value, with a margin; 0 and 1 where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    gap = (high - low) * margin or abs(high) * margin or 1.0
    return low - gap, high + gap


def thinned(
    points: list[tuple[float, float]], place: Callable[[float], float], columns: int
) -> list[tuple[float, float]]:
    """So few points that a picture of ``columns`` looks the same: of each column the first, the last, the least and the
    greatest. No spike is lost by it.
    """
    if len(points) <= 4 * columns:
        return points
    found: list[tuple[float, float]] = []
    group: list[tuple[float, float]] = []
    column = -1
    for point in points:
        at = int(place(point[0]) * columns / (FULL + 1))
        if at != column and group:
            found += _extremes(group)
            group = []
        column = at
        group.append(point)
    return found + _extremes(group)


def _extremes(group: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chosen = {0, len(group) - 1}
    finite = [index for index, (_, value) in enumerate(group) if math.isfinite(value)]
    if finite:
        chosen |= {min(finite, key=lambda index: group[index][1]), max(finite, key=lambda index: group[index][1])}
    broken = next((index for index, (_, value) in enumerate(group) if not math.isfinite(value)), None)
    return [group[index] for index in sorted(chosen | ({broken} if broken is not None else set()))]
