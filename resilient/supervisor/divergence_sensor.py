"""The divergence sensor: what the detectors make of the metrics that rank 0 reports, one record after the other.

The detectors are pure (:mod:`resilient.policy.divergence`); this keeps their state, and enough of the past to say what
it was after each of the last few thousand steps: it belongs into the snapshot of that step, and a relaunch from an
image in memory goes on with it. So a run that was interrupted is judged as if it had not been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resilient.policy.divergence import DivergenceSettings, Finding, MonitorState, observe, phase_change
from resilient.policy.events import MetricsJudged
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import OURS, PHASE_CHANGE, Entry, MetricsLog
from resilient.supervisor.declared import declared

_ANCHOR_STEPS = 50  # a state of some 20 kB is kept so often; between two, what was reported
_ANCHORS = 64


class DivergenceSensor:
    """Hears all metrics as they are logged; :meth:`take` gives what there is to say of them since the last call."""

    def __init__(self, settings: DivergenceSettings) -> None:
        self._settings = settings
        self._state = MonitorState()
        self._step = 0
        self._anchors: deque[tuple[int, MonitorState]] = deque(maxlen=_ANCHORS)  # none before the first round
        self._records: deque[Metrics] = deque()  # reported since the oldest anchor
        self._found: list[MetricsJudged] = []
        self._advanced = False

    @property
    def state(self) -> MonitorState:
        return self._state

    def hear(self, entries: Iterable[Entry]) -> None:
        """Take what was just reported. The run's metrics are those of rank 0."""
        if not self._settings.enabled or not self._anchors:
            return
        for entry in entries:
            if entry.rank == 0:
                self._hear(entry.metrics)

    def _hear(self, record: Metrics) -> None:
        if record.step > self._step and self._step >= self._anchors[-1][0] + _ANCHOR_STEPS:
            self._anchor()
        self._records.append(record)
        self._state, findings = judged(self._settings, self._state, record)
        self._step, self._advanced = max(self._step, record.step), True
        if findings:
            self._found.append(MetricsJudged(record.step, findings, self._state.open_onset))
            self._advanced = False

    def _anchor(self) -> None:
        """Keep the state as it is after all that was reported of the last step."""
        self._anchors.append((self._step, self._state))
        oldest = self._anchors[0][0]
        while self._records and self._records[0].step <= oldest:
            self._records.popleft()

    def take(self) -> list[MetricsJudged]:
        """One event for each record with findings, in order, and one without for the last step, if it had none."""
        if not self._found and not self._advanced:
            return []
        found = self._found
        if self._advanced:
            found = [*found, MetricsJudged(self._step, (), self._state.open_onset)]
        self._found, self._advanced = [], False
        return found

    def state_at(self, step: int) -> MonitorState | None:
        """The state after ``step``; None if that is too long ago, or was before this sensor."""
        if step >= self._step and self._anchors:
            return self._state
        anchors = [(at, state) for at, state in self._anchors if at <= step]
        if not anchors:
            return None
        at, state = anchors[-1]
        return folded(self._settings, state, (item for item in self._records if at < item.step <= step))

    def resume(self, step: int, state: MonitorState) -> None:
        """A round begins after ``step``, with the detectors in that state. What they had found before is said again if
        it is still so, for whoever heard of it may not be there any more.
        """
        self._state, self._step = state, step
        self._anchors = deque([(step, state)], _ANCHORS)
        self._records.clear()
        self._found, self._advanced = [], False
        if self._settings.respond and (findings := declared(self._settings, state, step)):
            self._found.append(MetricsJudged(step, findings, state.open_onset))


class JudgedMetrics(MetricsLog):
    """The log of metrics, with the sensor listening."""

    def __init__(self, path: Path, sensor: DivergenceSensor) -> None:
        super().__init__(path)
        self._sensor = sensor

    def write(self, entries: Iterable[Entry]) -> None:
        heard = list(entries)
        super().write(heard)
        self._sensor.hear(heard)


def judged(
    settings: DivergenceSettings, state: MonitorState, record: Metrics
) -> tuple[MonitorState, tuple[Finding, ...]]:
    """What one record means to the detectors."""
    if record.values.get(PHASE_CHANGE):
        state = phase_change(state, record.step)
    values = {name: value for name, value in record.values.items() if not name.startswith(OURS)}
    return observe(settings, state, record.step, values) if values else (state, ())


def folded(settings: DivergenceSettings, state: MonitorState, records: Iterable[Metrics]) -> MonitorState:
    """The state after all of ``records``."""
    for record in records:
        state, _ = judged(settings, state, record)
    return state


def state_from(saved: Mapping[str, Any]) -> MonitorState | None:
    """The state in what a manifest says of divergence; None where there is none that this release reads."""
    try:
        return MonitorState.from_json(saved["detector"])
    except (KeyError, ValueError, TypeError):
        return None
