"""The gradient norm: high norms arm the other rules and date the onset; alone they prove nothing.

Norms scatter by factors, so it is their logarithm that is judged. Clipping hides nothing here, for what is reported is
the norm before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.policy.divergence.baseline import Baseline
from resilient.policy.divergence.settings import NormSettings

_LEVEL_WINDOW = 32
_TOGETHER = 5  # high norms with fewer normal ones between them are one excursion, and it arms as long after it


@dataclass(frozen=True)
class NormState:
    """:param onset: the first step of the excursion that is going on or was a moment ago; None if there is none.
    :param normal: normal norms since the last high one.
    :param row: high norms in a row.
    """

    baseline: Baseline = field(default_factory=Baseline)
    onset: int | None = None
    normal: int = 0
    row: int = 0

    @property
    def armed(self) -> bool:
        return self.onset is not None

    def to_json(self) -> dict[str, Any]:
        return {"baseline": self.baseline.to_json(), "excursion": [self.onset, self.normal, self.row]}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> NormState:
        onset, normal, row = saved["excursion"]
        return cls(Baseline.from_json(saved["baseline"]), None if onset is None else int(onset), int(normal), int(row))


def judge_norm(settings: NormSettings, state: NormState, step: int, norm: float) -> NormState:
    """One more finite norm."""
    if norm <= 0:  # of a step without gradients; its logarithm would be the end of the scale
        return state
    value, baseline = math.log(norm), state.baseline
    if len(baseline.residuals) < settings.history:
        return replace(state, baseline=baseline.add(value, settings.window, _LEVEL_WINDOW))
    reach = settings.threshold * max(baseline.spread, settings.floor)
    if value > baseline.centre + reach:
        if state.row + 1 >= settings.accept_after:
            return NormState()
        return NormState(baseline, step if state.onset is None else state.onset, 0, state.row + 1)
    if state.row == 1:
        baseline = baseline.stretch(reach, settings.window)
    normal = state.normal + 1
    onset = state.onset if normal < _TOGETHER else None
    return NormState(baseline.add(value, settings.window, _LEVEL_WINDOW), onset, normal, 0)
