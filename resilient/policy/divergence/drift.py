"""Drift: the smoothed metric has left the best it has been, and does not come back.

What no single value shows. Values are smoothed after cutting off what lies outside the reach of the spike rule, so
that a few hard batches cannot move the mean; the best is forgotten when a phase change is declared or the learning rate
rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from resilient.policy.divergence.settings import DriftSettings
from resilient.policy.divergence.verdicts import Divergence, DivergenceKind, Finding, Recovered


@dataclass(frozen=True)
class DriftState:
    """:param mean: the smoothed metric.
    :param count: reports that went into it, as far as they matter.
    :param best: the lowest it has been; None until it means something.
    :param near_step: the last step at which the mean was within a quarter of the margin: the onset, if it is never
        seen there again.
    :param above: reports in a row that it has been too far above.
    :param declared: the step at which that was called a divergence; None if it was not.
    """

    mean: float = 0.0
    count: int = 0
    best: float | None = None
    near_step: int = 0
    above: int = 0
    declared: int | None = None

    def to_json(self) -> list[Any]:
        return [self.mean, self.count, self.best, self.near_step, self.above, self.declared]

    @classmethod
    def from_json(cls, saved: Any) -> DriftState:
        mean, count, best, near_step, above, declared = saved
        return cls(
            float(mean),
            int(count),
            None if best is None else float(best),
            int(near_step),
            int(above),
            None if declared is None else int(declared),
        )

    def forget_best(self) -> DriftState:
        """Something changed on purpose: where the metric goes from here is the new best."""
        return DriftState(mean=self.mean, count=self.count)


@dataclass(frozen=True)
class Smoothable:
    """One value as the drift rule sees it: cut off at the spike rule's reach, with the baseline's measures."""

    metric: str
    step: int
    value: float
    spread: float
    stake: float
    quiet: bool = False


def judge_drift(settings: DriftSettings, state: DriftState, reading: Smoothable) -> tuple[DriftState, Finding | None]:
    """One more report of the metric."""
    count = min(state.count + 1, settings.smoothing)
    mean = state.mean + (reading.value - state.mean) / count
    state = replace(state, mean=mean, count=count)
    if not settings.enabled or reading.quiet or count < settings.smoothing:
        return replace(state, near_step=reading.step), None
    if state.best is None or mean <= state.best:
        best = mean
        state = replace(state, best=best)
    else:
        best = state.best
    margin = max(settings.margin * reading.stake, settings.spreads * reading.spread)
    if mean <= best + margin / 4:
        state = replace(state, near_step=reading.step)
    above = state.above + 1 if mean > best + margin else 0
    state = replace(state, above=above)
    if state.declared is not None:
        return _declared(state, reading, best, margin)
    if above < settings.held:
        return state, None
    text = (
        f"the mean of {reading.metric} over about {settings.smoothing} reports is {mean:g}, more than {margin:g} above "
        f"the best it has been, for {above} reports in a row"
    )
    place = (DivergenceKind.DRIFT, reading.metric, state.near_step, reading.step, reading.step, mean, best, margin)
    return replace(state, declared=reading.step), Divergence(*place, (text,))


def _declared(state: DriftState, reading: Smoothable, best: float, margin: float) -> tuple[DriftState, Finding | None]:
    if state.mean > best + margin / 2:
        return state, None
    assert state.declared is not None  # noqa: S101  the caller looked
    place = (
        DivergenceKind.DRIFT,
        reading.metric,
        state.near_step,
        state.declared,
        reading.step,
        state.mean,
        best,
        margin,
    )
    return replace(state, declared=None), Recovered(*place, (f"the mean of {reading.metric} is back near its best",))
