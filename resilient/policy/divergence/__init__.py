"""Has the training diverged? Pure detectors over what each step reports; DESIGN.md §9 says what follows.

:func:`observe` takes one step's metrics and returns the next state and the findings, if any.
"""

from resilient.policy.divergence.monitor import MonitorState, observe, phase_change
from resilient.policy.divergence.settings import (
    DivergenceSettings,
    DriftSettings,
    LadderSettings,
    MetricSettings,
    NormSettings,
    ReplaySettings,
    SpikeSettings,
)
from resilient.policy.divergence.verdicts import Accepted, Alarm, Divergence, DivergenceKind, Finding, Recovered

__all__ = [
    "Accepted",
    "Alarm",
    "Divergence",
    "DivergenceKind",
    "DivergenceSettings",
    "DriftSettings",
    "Finding",
    "LadderSettings",
    "MetricSettings",
    "MonitorState",
    "NormSettings",
    "Recovered",
    "ReplaySettings",
    "SpikeSettings",
    "observe",
    "phase_change",
]
