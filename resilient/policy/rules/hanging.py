"""A group of which a rank is silent for too long."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import watching
from resilient.policy.decisions import DumpStacks, KillWorkers, RecordIncident
from resilient.policy.events import RanksProgressed, StacksDumped, StopRequested, Tick, WorkerProgressed
from resilient.policy.roots import Loss
from resilient.policy.rules.pieces import Outcome, new_incident, noticed
from resilient.policy.rules.running import progressed
from resilient.policy.rules.stopping import ask_to_stop, stop_while_clearing
from resilient.policy.state import Dumping, Phase, RunState

_DUMP_ALLOWANCE = 2.0  # seconds


def watch(state: RunState, event: Tick, now: float) -> Outcome:
    """Time has passed: a rank may be over its limit, and then the stacks of all are written first."""
    hung = watching.hung_ranks(state, now)
    if not hung:
        return state, ()
    state = replace(state, dumping=Dumping(now, hung, state.phase))
    seconds = state.settings.hang.stack_seconds
    if not seconds:
        return stacks_dumped(state, StacksDumped(), now)
    dump = DumpStacks(state.incidents + 1, tuple(sorted(state.live)), hung, now + seconds)
    return replace(state, phase=Phase.DUMPING), (dump,)


def moved_on(state: RunState, event: WorkerProgressed | RanksProgressed, now: float) -> Outcome:
    """Ranks show progress while stacks are being written."""
    assert state.dumping is not None  # noqa: S101  DUMPING is only entered with one
    after, decisions = progressed(state, event, now)
    resume = Phase.RUNNING if any(each.phase == "step" for each in event.ranks) else state.dumping.resume
    return replace(after, dumping=replace(state.dumping, resume=resume)), decisions


def stacks_dumped(state: RunState, event: StacksDumped, now: float) -> Outcome:
    """The stacks are there: name the hang and kill the group, unless every silent rank has moved on."""
    dumping, silent = state.dumping, watching.still_silent(state)
    assert dumping is not None  # noqa: S101  DUMPING is only entered with one
    if not silent:
        failure = watching.passed_by(state)
        state, incident = new_incident(state, failure, rank=dumping.hung[0], remedy="none: it has moved on by itself")
        return replace(state, phase=dumping.resume, dumping=None), (RecordIncident(incident),)
    rank, failure, reason = watching.name_hang(state, silent, event.accounts)
    step = state.step if rank is None else state.watches[rank].step
    state = noticed(replace(state, dumping=None), Loss(rank, step, failure, now))
    return replace(state, phase=Phase.CLEARING), (KillWorkers(reason),)


def watch_dump(state: RunState, event: Tick, now: float) -> Outcome:
    """Who writes the stacks keeps to the time; this is for when it does not answer at all."""
    assert state.dumping is not None  # noqa: S101  DUMPING is only entered with one
    if now - state.dumping.since <= state.settings.hang.stack_seconds + _DUMP_ALLOWANCE:
        return state, ()
    return stacks_dumped(state, StacksDumped(), now)


def stop_while_dumping(state: RunState, event: StopRequested, now: float) -> Outcome:
    """A hung group reaches no step boundary, and whoever asks has little time: kill it, with what stacks there are."""
    after, decisions = stacks_dumped(state, StacksDumped(), now)
    if after.phase is not Phase.CLEARING:  # it has moved on, and can be asked like any other
        after, asked = ask_to_stop(after, event, now)
        return after, (*decisions, *asked)
    after, noted = stop_while_clearing(after, event, now)
    return after, (*decisions, *noted)
