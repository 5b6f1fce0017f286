"""Spikes: M of the last N values far above a baseline that they do not enter.

calm ──(hits of the last ``of`` values are high)──▶ alarm: the baseline stands still
alarm ──(``recovered`` values in a row near the level)──▶ calm, `Recovered`
alarm ──(``patience`` reports without that)──▶ alarm, `Divergence`, said once
alarm ──(``accept_after`` reports)──▶ calm with an empty baseline, `Accepted`

One high value is no alarm, whatever its height: single hard batches are the rule in healthy training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from resilient.policy.divergence.baseline import Baseline
from resilient.policy.divergence.settings import SpikeSettings
from resilient.policy.divergence.verdicts import Accepted, Alarm, Divergence, DivergenceKind, Finding, Recovered


@dataclass(frozen=True)
class OpenAlarm:
    """An alarm that is not over.

    :param since: reports since then.
    :param near: values in a row that were back near the level.
    :param peak: the worst value so far.
    :param declared: it has been called a divergence.
    """

    onset: int
    step: int
    peak: float
    since: int = 0
    near: int = 0
    declared: bool = False

    def to_json(self) -> list[Any]:
        return [self.onset, self.step, self.peak, self.since, self.near, self.declared]

    @classmethod
    def from_json(cls, saved: Any) -> OpenAlarm:
        onset, step, peak, since, near, declared = saved
        return cls(int(onset), int(step), float(peak), int(since), int(near), bool(declared))


@dataclass(frozen=True)
class SpikeState:
    """All that is remembered of one metric.

    :param high: of the last values, oldest first: the step and cut-off distance of a high one, None of any other.
    """

    baseline: Baseline = field(default_factory=Baseline)
    high: tuple[tuple[int, float] | None, ...] = ()
    alarm: OpenAlarm | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.to_json(),
            "high": [None if item is None else list(item) for item in self.high],
            "alarm": self.alarm.to_json() if self.alarm else None,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> SpikeState:
        return cls(
            Baseline.from_json(saved["baseline"]),
            tuple(None if item is None else (int(item[0]), float(item[1])) for item in saved["high"]),
            OpenAlarm.from_json(saved["alarm"]) if saved["alarm"] is not None else None,
        )


@dataclass(frozen=True)
class Reading:
    """One value as the spike rule sees it.

    :param value: as reported; the spike rule wants it finite, bounded, and turned so that higher is worse.
    :param armed: the gradient norm is high, or was a moment ago.
    :param quiet: warm-up: learn, but say nothing.
    """

    metric: str
    step: int
    value: float
    armed: bool = False
    quiet: bool = False


Judged: TypeAlias = "tuple[SpikeState, Finding | None]"


def judge_spike(settings: SpikeSettings, state: SpikeState, reading: Reading) -> Judged:
    """One more report of the metric."""
    if reading.quiet or len(state.baseline.residuals) < settings.history:
        # Of the warm-up only the end is kept: a loss that still falls by leaps would count as one that scatters widely.
        return replace(state, baseline=state.baseline.add(reading.value, settings.history, settings.level_window)), None
    return _alarmed(settings, state, reading) if state.alarm else _calm(settings, state, reading)


def _accept(settings: SpikeSettings, baseline: Baseline, value: float) -> Baseline:
    return baseline.add(value, settings.window, settings.level_window)


def _calm(settings: SpikeSettings, state: SpikeState, reading: Reading) -> Judged:
    baseline, step = state.baseline, reading.step
    centre, scale = baseline.centre, baseline.scale(settings.floor)
    threshold = min(settings.threshold, settings.armed_threshold) if reading.armed else settings.threshold
    reach = threshold * scale
    is_high = settings.enabled and reading.value > centre + reach
    window = (*state.high, (step, reach) if is_high else None)
    high, left = window[-settings.of :], window[: -settings.of]
    hits = [item for item in high if item is not None]
    if is_high and len(hits) >= (min(settings.hits, settings.armed_hits) if reading.armed else settings.hits):
        alarm = OpenAlarm(hits[0][0], step, reading.value)
        text = (
            f"{len(hits)} of the last {len(high)} values of {reading.metric} lay more than {threshold:g} scales "
            f"above its level" + (", while the gradient norm was high" if reading.armed else "")
        )
        finding = Alarm(*_place(alarm, reading), centre, scale, (text,))
        return SpikeState(baseline, (), alarm), finding
    for item in left:
        if item is not None:  # it stayed alone
            baseline = baseline.stretch(item[1], settings.window)
    if not is_high:
        baseline = _accept(settings, baseline, reading.value)
    return SpikeState(baseline, high, None), None


def _alarmed(settings: SpikeSettings, state: SpikeState, reading: Reading) -> Judged:
    assert state.alarm is not None  # noqa: S101  the caller looked
    baseline = state.baseline
    centre, scale = baseline.centre, baseline.scale(settings.floor)
    is_near = reading.value <= centre + settings.threshold / 2 * scale
    alarm = replace(
        state.alarm,
        peak=max(state.alarm.peak, reading.value),
        since=state.alarm.since + 1,
        near=state.alarm.near + 1 if is_near else 0,
    )
    found = (*_place(alarm, reading), centre, scale)
    if alarm.near >= settings.recovered:
        text = f"{alarm.near} values in a row are back near the level; the worst was {alarm.peak:g}"
        return SpikeState(baseline), Recovered(*found, (text,))
    if alarm.since >= settings.accept_after:
        text = f"the level has stayed up for {alarm.since} reports and is what is normal now"
        return SpikeState(), Accepted(*found, (text,))
    if alarm.since >= settings.patience and not alarm.near and not alarm.declared:
        text = f"{reading.metric} has not recovered {alarm.since} reports after the alarm; the worst was {alarm.peak:g}"
        return replace(state, alarm=replace(alarm, declared=True)), Divergence(*found, (text,))
    return replace(state, alarm=alarm), None


def _place(alarm: OpenAlarm, reading: Reading) -> tuple[DivergenceKind, str, int, int, int, float]:
    return DivergenceKind.SPIKE, reading.metric, alarm.onset, alarm.step, reading.step, reading.value
