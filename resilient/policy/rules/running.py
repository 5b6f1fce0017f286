"""A round that is up."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings
from resilient.policy.changed import changed
from resilient.policy.decisions import KillWorkers, ReportStraggler
from resilient.policy.events import OwnTimesSeen, RanksProgressed, WorkerExited, WorkerProgressed
from resilient.policy.failures import Failure
from resilient.policy.rules.losing import judge, loss_of
from resilient.policy.rules.pieces import Outcome, flush, noticed, without
from resilient.policy.state import Phase, RunState


def progressed(state: RunState, event: WorkerProgressed | RanksProgressed, now: float) -> Outcome:
    """Ranks have completed a step, or show another sign of progress."""
    watches, steps, phase = {**state.watches}, {**state.steps}, state.phase
    for each in event.ranks:
        watches[each.rank] = watches[each.rank].progressed(each.phase, now, each.step)
        steps[each.rank] = each.step
        phase = Phase.RUNNING if phase is Phase.STARTING and each.phase == "step" else phase
    step = max(state.step, min(steps.values()))
    # What is taken from here on is new, also where a copy of the same step was rejected before.
    rejected = state.rejected and tuple(old for old in state.rejected if old.step > step)
    return changed(state, phase=phase, step=step, steps=steps, watches=watches, rejected=rejected), ()


def compare(state: RunState, event: OwnTimesSeen, now: float) -> Outcome:
    """What each rank spends on its own: report who is slower than its peers."""
    watch, found = state.stragglers.observed(event.times, state.settings.stragglers)
    return replace(state, stragglers=watch), tuple(map(ReportStraggler, found))


def exited(state: RunState, event: WorkerExited, now: float) -> Outcome:
    """A worker is gone: lost, or in good order."""
    state = without(state, event)
    if event.failure is not None:
        return _worker_lost(state, event, event.failure, now)
    if state.live:
        return state, ()
    if len(state.finished) == state.ranks:
        return flush(state, endings.finished(state))
    return judge(state, now)


def _worker_lost(state: RunState, event: WorkerExited, failure: Failure, now: float) -> Outcome:
    state = noticed(state, loss_of(event, failure, now))
    if not state.live:
        return judge(state, now)
    kill = KillWorkers(f"rank {event.rank} is lost: {failure.headline}")
    return replace(state, phase=Phase.CLEARING), (kill,)
