"""Counting what detectors said: false alarms with their intervals, and faults found, late or missed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.divergence_curves import Curve
from benchmarks.divergence_peers import Said

TOGETHER = 20  # alarms with fewer steps between them are one
SOON = 35  # a spike that is over within so many steps recovered by itself


def events(said: Sequence[Said]) -> int:
    """Separate occasions."""
    steps = sorted({item.step for item in said})
    return sum(1 for before, step in zip([-TOGETHER - 1, *steps], steps, strict=False) if step - before > TOGETHER)


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Garwood, 1936) interval of the mean of a Poisson variable that came out as ``count``."""
    tail = (1 - confidence) / 2
    least = _solve(lambda mean: 1 - _at_most(count - 1, mean), tail) if count else 0.0
    return least, _solve(lambda mean: 1 - _at_most(count, mean), 1 - tail)


def _at_most(count: int, mean: float) -> float:
    if mean <= 0:
        return 1.0
    return math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))


def _solve(rising: Callable[[float], float], wanted: float) -> float:
    low, high = 0.0, 1.0
    while rising(high) < wanted:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high


@dataclass(frozen=True)
class Harm:
    """What a fault did to the loss, against the twin that had the same batches without it.

    :param hurt: the mean loss of some five steps was higher by more than 5 % and by more than the batches' scatter.
    :param lasts: that was still so more than ``SOON`` steps after it began.
    """

    hurt: bool
    lasts: bool


def harm(curve: Curve, twin: Curve) -> Harm:
    first = curve.fault - 1
    before = twin.loss[max(0, first - 100) : first]
    middle = statistics.median(before)
    scatter = 1.4826 * statistics.median(abs(item - middle) for item in before)
    bar = max(scatter, 0.05 * abs(middle))
    pairs = list(zip(curve.loss[first:], twin.loss[first:], strict=False))
    windows = [pairs[start : start + 5] for start in range(len(pairs) - 4)]
    bad = [
        start
        for start, window in enumerate(windows)
        if not statistics.fmean(own - other for own, other in window) <= bar  # nan is bad
    ]
    if not bad:
        return Harm(hurt=False, lasts=False)
    if not math.isfinite(curve.loss[-1]):
        return Harm(hurt=True, lasts=True)
    return Harm(hurt=True, lasts=bad[-1] - bad[0] > SOON)


@dataclass(frozen=True)
class Outcome:
    """How one detector did on one hurt curve; in steps from the first step that the fault touched, None for never."""

    harm: Harm
    alarm: int | None
    action: int | None


def outcome(curve: Curve, twin: Curve, said: Sequence[Said]) -> Outcome:
    after = [item for item in said if item.step >= curve.fault]
    return Outcome(
        harm(curve, twin),
        min((item.step - curve.fault for item in after), default=None),
        min((item.step - curve.fault for item in after if item.acts), default=None),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Interpolated; not a number of nothing."""
    if not values:
        return math.nan
    ordered, place = sorted(values), share * (len(values) - 1)
    low = ordered[math.floor(place)]
    return low + (place - math.floor(place)) * (ordered[math.ceil(place)] - low)
