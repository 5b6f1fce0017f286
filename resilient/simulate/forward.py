"""Many uneventful steps at once: the state that the decision core would reach if it were told of each of them.

A step that nothing else happens in changes the last step, the last sign of life and the latest durations of each rank,
and nothing is decided. So the core need not be asked a million times. That the state is the same, to the last bit, is
tested against the core itself.
"""

from __future__ import annotations

from dataclasses import replace

from resilient.policy.hang import STEP, HangWatch
from resilient.policy.state import RunState
from resilient.simulate.rounds import Round


def forward(state: RunState, steps: Round, count: int) -> RunState:
    """Every rank has completed steps 2 to ``count`` of the round; the core has been told of the first."""
    if count < 2:
        return state
    first = max(2, count - HangWatch.WINDOW + 1)
    times = [steps.complete_at(number) for number in range(first - 1, count + 1)]
    latest = tuple(after - before for before, after in zip(times, times[1:], strict=False))
    step = steps.base + count
    watches = {rank: _moved(watch, latest, step, times[-1]) for rank, watch in state.watches.items()}
    rejected = tuple(old for old in state.rejected if old.step > step)
    return replace(state, step=step, steps=dict.fromkeys(state.steps, step), watches=watches, rejected=rejected)


def _moved(watch: HangWatch, latest: tuple[float, ...], step: int, now: float) -> HangWatch:
    recent = {**watch.recent, STEP: (*watch.recent.get(STEP, ()), *latest)[-HangWatch.WINDOW :]}
    return replace(watch, since=now, phase=STEP, step=step, recent=recent, began=None)
