"""All detectors of a run together: one pure step from what was reported to what it means.

The state is frozen, bounded and goes through JSON unchanged, so it lies in every snapshot and a run that was
interrupted is judged exactly as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.policy.divergence.baseline import bounded
from resilient.policy.divergence.drift import DriftState, Smoothable, judge_drift
from resilient.policy.divergence.norm import NormState, judge_norm
from resilient.policy.divergence.settings import DivergenceSettings, MetricSettings
from resilient.policy.divergence.spike import Reading, SpikeState, judge_spike
from resilient.policy.divergence.verdicts import Accepted, Divergence, DivergenceKind, Finding, Recovered

FORMAT = 1
_BEFORE = 20  # an excursion of the norm that began so many steps before the loss rose has to do with it


@dataclass(frozen=True)
class MetricState:
    """:param nonfinite: values in a row that were not finite, and the step of the first of them."""

    spike: SpikeState = field(default_factory=SpikeState)
    drift: DriftState = field(default_factory=DriftState)
    nonfinite: tuple[int, int] = (0, 0)

    @property
    def open_onset(self) -> int | None:
        """The earliest onset of what is wrong now; None while nothing is."""
        onsets = (
            self.spike.alarm.onset if self.spike.alarm else None,
            self.drift.near_step if self.drift.declared else None,
            self.nonfinite[1] if self.nonfinite[0] else None,
        )
        return min((onset for onset in onsets if onset is not None), default=None)


@dataclass(frozen=True)
class MonitorState:
    """:param since: the first step seen, or the last phase change; None before the first.
    :param lr: the last learning rate seen.
    """

    since: int | None = None
    metrics: Mapping[str, MetricState] = field(default_factory=dict)
    norm: NormState = field(default_factory=NormState)
    norm_nonfinite: tuple[int, int] = (0, 0)
    lr: float | None = None

    @property
    def open_onset(self) -> int | None:
        """The earliest onset of what is wrong now; None while nothing is. A drift counts when it is a divergence, not
        at its alarm.
        """
        return min((onset for item in self.metrics.values() if (onset := item.open_onset) is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of bounded size."""
        return {
            "format": FORMAT,
            "since": self.since,
            "metrics": {
                name: {
                    "spike": item.spike.to_json(),
                    "drift": item.drift.to_json(),
                    "nonfinite": list(item.nonfinite),
                }
                for name, item in self.metrics.items()
            },
            "norm": self.norm.to_json(),
            "norm_nonfinite": list(self.norm_nonfinite),
            "lr": self.lr,
        }

    @classmethod
    def from_json(cls, saved: Any) -> MonitorState:
        """What :meth:`to_json` made; raises ValueError if it is anything else, another version's included."""
        try:
            if saved["format"] != FORMAT:
                raise ValueError(f"format {saved['format']}, not {FORMAT}")
            return cls(
                None if saved["since"] is None else int(saved["since"]),
                {str(name): _metric_from_json(item) for name, item in saved["metrics"].items()},
                NormState.from_json(saved["norm"]),
                _pair(saved["norm_nonfinite"]),
                None if saved["lr"] is None else float(saved["lr"]),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"not a state of the divergence detectors: {error}") from error


def _metric_from_json(saved: Mapping[str, Any]) -> MetricState:
    return MetricState(
        SpikeState.from_json(saved["spike"]), DriftState.from_json(saved["drift"]), _pair(saved["nonfinite"])
    )


def _pair(saved: Any) -> tuple[int, int]:
    first, second = saved
    return int(first), int(second)


def phase_change(state: MonitorState, step: int) -> MonitorState:
    """From ``step`` on the metrics may stand anywhere: other data, a restarted schedule, another loss. What was learned
    of them is forgotten, and the warm-up begins anew.
    """
    return MonitorState(since=step, lr=state.lr)


def observe(
    settings: DivergenceSettings, state: MonitorState, step: int, metrics: Mapping[str, Any]
) -> tuple[MonitorState, tuple[Finding, ...]]:
    """What was reported of one step, and what it means. Never raises, whatever the values.

    Metrics that are not watched, and values that are not numbers, are passed over.
    """
    if not settings.enabled:
        return state, ()
    since = step if state.since is None else state.since
    quiet = step - since < settings.warmup_steps
    norm, norm_nonfinite, findings = _observe_norm(settings, state, step, metrics)
    lr = _learning_rate(settings, state, metrics)
    rises = state.lr is not None and lr is not None and lr > state.lr
    states = dict(state.metrics)
    for name, own in settings.metrics.items():
        value = _number(metrics.get(name))
        if value is None:
            continue
        before = states.get(name) or MetricState()
        if rises:
            before = replace(before, drift=before.drift.forget_best())
        states[name], found = _observe_metric(own, before, Reading(name, step, value, norm.armed, quiet), norm)
        findings += found
    return MonitorState(since, states, norm, norm_nonfinite, lr), findings


def _observe_metric(
    settings: MetricSettings, state: MetricState, reading: Reading, norm: NormState
) -> tuple[MetricState, tuple[Finding, ...]]:
    nonfinite, found = _count_nonfinite(
        settings.nonfinite, state.nonfinite, reading.metric, reading.step, reading.value
    )
    if not math.isfinite(reading.value):
        return replace(state, nonfinite=nonfinite), found
    sign = 1.0 if settings.higher_is_worse else -1.0
    value = bounded(sign * reading.value)
    reading = Reading(reading.metric, reading.step, value, reading.armed, reading.quiet)
    before = state.spike.baseline
    spike, seen = judge_spike(settings.spike, state.spike, reading)
    drift, drifted = state.drift, None
    if isinstance(seen, Accepted):
        drift = DriftState()
    elif spike.alarm is None and before.count:  # while a spike is open, it is not also a drift
        scale = before.scale(settings.spike.floor)
        reach = settings.spike.threshold * scale
        cut = max(before.centre - reach, min(before.centre + reach, value))
        smoothable = Smoothable(reading.metric, reading.step, cut, scale, before.stake, reading.quiet)
        drift, drifted = judge_drift(settings.drift, drift, smoothable)
    findings = tuple(_told(item, sign, norm) for item in (seen, drifted) if item is not None)
    return MetricState(spike, drift, nonfinite), found + findings


def _told(finding: Finding, sign: float, norm: NormState) -> Finding:
    """The finding in the metric's own sign, dated by the gradient norm where that left its baseline earlier."""
    finding = replace(finding, value=sign * finding.value, baseline=sign * finding.baseline)
    if norm.onset is None or not finding.onset_step - _BEFORE <= norm.onset < finding.onset_step:
        return finding
    text = f"the gradient norm had left its baseline at step {norm.onset}"
    return replace(finding, onset_step=norm.onset, evidence=(*finding.evidence, text))


def _observe_norm(
    settings: DivergenceSettings, state: MonitorState, step: int, metrics: Mapping[str, Any]
) -> tuple[NormState, tuple[int, int], tuple[Finding, ...]]:
    own = settings.grad_norm
    norm = _number(metrics.get(own.metric)) if own.metric else None
    if norm is None:
        return state.norm, state.norm_nonfinite, ()
    nonfinite, found = _count_nonfinite(own.nonfinite, state.norm_nonfinite, own.metric, step, norm)
    after = judge_norm(own, state.norm, step, norm) if math.isfinite(norm) else state.norm
    return after, nonfinite, found


def _learning_rate(settings: DivergenceSettings, state: MonitorState, metrics: Mapping[str, Any]) -> float | None:
    """The last one reported, now or before."""
    lr = _number(metrics.get(settings.lr_metric)) if settings.lr_metric else None
    return state.lr if lr is None or not math.isfinite(lr) else lr


def _count_nonfinite(
    most: int, before: tuple[int, int], name: str, step: int, value: float
) -> tuple[tuple[int, int], tuple[Finding, ...]]:
    """Values in a row that are not finite; a divergence when there are ``most`` of them, said once, a recovery after
    that.
    """
    count, first = before
    if math.isfinite(value):
        if not most or count < most:
            return (0, 0), ()
        text = f"{name} is finite again" if count == 1 else f"{name} is finite again after {count} values that were not"
        place = (DivergenceKind.NONFINITE, name, first, first + most - 1, step, value, value, 0.0)
        return (0, 0), (Recovered(*place, (text,)),)
    count, first = count + 1, first if count else step
    if count != most:
        return (count, first), ()
    text = (
        f"{name} is {value:g}"
        if count == 1
        else f"{name} has not been finite since step {first}, {count} times in a row"
    )
    place = (DivergenceKind.NONFINITE, name, first, step, step, value, 0.0, 0.0)
    return (count, first), (Divergence(*place, (text,)),)


def _number(value: Any) -> float | None:
    """``value`` as a float; None of what is no number. Integers too large for one are infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
