"""Divergences that a state of the detectors holds: each is said once, and who was told may not be there any more."""

from __future__ import annotations

import math
from collections.abc import Iterator

from resilient.policy.divergence import Divergence, DivergenceKind, DivergenceSettings, MetricSettings, MonitorState
from resilient.policy.divergence.monitor import MetricState

_EVIDENCE = ("it was found before the last interruption, and is not over",)


def declared(settings: DivergenceSettings, state: MonitorState, step: int) -> tuple[Divergence, ...]:
    """The divergences that have been called so and are not over, as of ``step``."""
    found = [*_of_the_norm(settings, state, step)]
    for name, item in state.metrics.items():
        own = settings.metrics.get(name)
        if own is not None:
            found += _of_a_metric(own, name, item, step)
    return tuple(found)


def _of_a_metric(settings: MetricSettings, name: str, item: MetricState, step: int) -> Iterator[Divergence]:
    sign = 1.0 if settings.higher_is_worse else -1.0
    yield from _nonfinite(settings.nonfinite, item.nonfinite, name, step)
    alarm, level = item.spike.alarm, item.spike.baseline
    if alarm is not None and alarm.declared:
        values = (sign * alarm.peak, sign * level.centre, level.scale(settings.spike.floor))
        yield Divergence(DivergenceKind.SPIKE, name, alarm.onset, alarm.step, step, *values, _EVIDENCE)
    drift = item.drift
    if drift.declared:
        values = (sign * drift.mean, sign * (drift.mean if drift.best is None else drift.best), 0.0)
        since = drift.near_step if drift.alarm is None else drift.alarm
        yield Divergence(DivergenceKind.DRIFT, name, drift.near_step, since, step, *values, _EVIDENCE)


def _of_the_norm(settings: DivergenceSettings, state: MonitorState, step: int) -> Iterator[Divergence]:
    yield from _nonfinite(settings.grad_norm.nonfinite, state.norm_nonfinite, settings.grad_norm.metric, step)


def _nonfinite(most: int, seen: tuple[int, int], name: str, step: int) -> Iterator[Divergence]:
    count, first = seen
    if most and count >= most:
        place = (DivergenceKind.NONFINITE, name, first, first + most - 1, step, math.nan, 0.0, 0.0)
        yield Divergence(*place, _EVIDENCE)
