"""Drift: the metric has left the best that its mean has been, and does not come back.

What no single value shows is summed up (Page's cumulative sum, 1954): each value adds how far it lies above the best
and an allowance, or takes away how far it lies below, and the sum never falls under 0. Noise about the best sums to
nothing; a small rise that stays reaches the limit late, a large one early. Values are cut off at the reach of the spike
rule first, so that a few hard batches cannot do it; the best is forgotten when a phase change is declared or the
learning rate rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from resilient.policy.divergence.settings import DriftSettings
from resilient.policy.divergence.verdicts import Accepted, Alarm, Divergence, DivergenceKind, Finding, Recovered

_ALARM = 1 / 3  # of the margin: an alarm costs nothing but the trust in what follows, a divergence costs the steps


@dataclass(frozen=True)
class DriftState:
    """:param mean: the smoothed metric.
    :param count: reports that went into it, as far as they matter.
    :param best: the lowest it has been; None until it means something.
    :param near_step: the last step at which the mean was within a quarter of the margin and nothing had been summed up:
        the onset, if neither is seen again.
    :param above: sum of what values lay above the alarm's share of the margin, in units of the scale or of that
        share, whichever is wider.
    :param far: sum of what they lay above the whole margin.
    :param alarm: the step of the alarm that is open, if one is.
    :param since: reports since then.
    :param declared: that has been called a divergence.
    """

    mean: float = 0.0
    count: int = 0
    best: float | None = None
    near_step: int = 0
    above: float = 0.0
    far: float = 0.0
    alarm: int | None = None
    since: int = 0
    declared: bool = False

    def to_json(self) -> list[Any]:
        counts = [self.mean, self.count, self.best, self.near_step]
        return [*counts, self.above, self.far, self.alarm, self.since, self.declared]

    @classmethod
    def from_json(cls, saved: Any) -> DriftState:
        mean, count, best, near_step, above, far, alarm, since, declared = saved
        return cls(
            float(mean),
            int(count),
            None if best is None else float(best),
            int(near_step),
            float(above),
            float(far),
            None if alarm is None else int(alarm),
            int(since),
            bool(declared),
        )

    def forget_best(self) -> DriftState:
        """Something changed on purpose: where the metric goes from here is the new best."""
        return DriftState(mean=self.mean, count=self.count, near_step=self.near_step)


@dataclass(frozen=True)
class Smoothable:
    """One value as the drift rule sees it: cut off at the spike rule's reach, with the measures before it."""

    metric: str
    step: int
    value: float
    scale: float
    stake: float
    quiet: bool = False


def judge_drift(settings: DriftSettings, state: DriftState, reading: Smoothable) -> tuple[DriftState, Finding | None]:
    """One more report of the metric."""
    count = min(state.count + 1, settings.smoothing)
    mean = state.mean + (reading.value - state.mean) / count
    if not settings.enabled or reading.quiet or count < settings.smoothing:
        return replace(state, mean=mean, count=count, near_step=reading.step), None
    best = mean if state.best is None else min(state.best, mean)
    margin = max(settings.margin * reading.stake, settings.spreads * reading.scale)
    unit = max(reading.scale, margin * _ALARM) or 1.0
    above = _sum(state.above, (reading.value - best - margin * _ALARM) / unit, settings.held)
    far = _sum(state.far, (reading.value - best - margin) / unit, settings.held)
    is_near = above == 0 and mean <= best + margin / 4
    near_step = reading.step if is_near and state.alarm is None else state.near_step
    since = 0 if state.alarm is None else state.since + 1
    after = DriftState(mean, count, best, near_step, above, far, state.alarm, since, state.declared)
    return _conclude(settings, after, reading, best, margin)


def _sum(before: float, excess: float, most: float) -> float:
    """Not above ``most``: what is long over must not take as long to be believed."""
    return max(0.0, min(float(most), before + excess))


def _conclude(
    settings: DriftSettings, state: DriftState, reading: Smoothable, best: float, margin: float
) -> tuple[DriftState, Finding | None]:
    alarm = reading.step if state.alarm is None else state.alarm
    place = (DivergenceKind.DRIFT, reading.metric, state.near_step, alarm, reading.step, state.mean, best, margin)
    mean = f"the mean of {reading.metric} over about {settings.smoothing} reports, {state.mean:g}, "
    if state.alarm is not None and state.above == 0 and state.mean <= best + margin / 4:
        text = f"{mean}is back near the best it has been, {best:g}"
        calm = replace(state, alarm=None, declared=False, near_step=reading.step)
        return calm, Recovered(*place, (text,))
    if state.since >= settings.accept_after:
        text = f"{mean}has stayed up for {state.since} reports and is what is normal now"
        return state.forget_best(), Accepted(*place, (text,))
    if state.far >= settings.held and not state.declared:
        text = f"{mean}has left the best it has been, {best:g}, by more than {margin:g} for good"
        return replace(state, alarm=alarm, declared=True), Divergence(*place, (text,))
    if state.above >= settings.held and state.alarm is None:
        text = f"{mean}has left the best it has been, {best:g}, by more than {margin * _ALARM:g}"
        return replace(state, alarm=alarm), Alarm(*place, (text,))
    return state, None
