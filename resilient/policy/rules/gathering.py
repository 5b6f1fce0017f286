"""Coming together before a round, in runs of several nodes: with all that are wanted, with fewer, or not at all."""

from __future__ import annotations

from dataclasses import replace

from resilient.policy import endings
from resilient.policy.decisions import Decision, FormGroup, RecordIncident, RegroupWorkers
from resilient.policy.events import NodesSeen
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.nodes import NodeSettings, choose_nodes, grown
from resilient.policy.rules.pieces import Outcome, flush, new_incident
from resilient.policy.state import RunState


def nodes_seen(state: RunState, event: NodesSeen, now: float) -> Outcome:
    """Who is there to be launched on. A group that is smaller than wanted is an incident, once."""
    settings = state.settings.nodes
    if settings is None or not event.nodes:
        return state, ()
    chosen = choose_nodes(settings, state.group, event.nodes, now - event.since)
    if chosen is None:
        return state, ()
    if not chosen:
        return _too_few(state, settings, event, now)
    noted: tuple[Decision, ...] = ()
    if len(chosen) < settings.count and set(chosen) != set(state.group.nodes):
        failure = _lost(state, settings, event, now)
        remedy = f"go on with {len(chosen)} of {settings.count} nodes"
        state, incident = new_incident(state, failure, rank=None, remedy=remedy)
        noted = (RecordIncident(incident),)
    group = replace(state.group, nodes=chosen, formed=True)
    return replace(state, group=group), (*noted, FormGroup(chosen))


def grow(state: RunState, event: NodesSeen, now: float) -> Outcome:
    """Others are there while a round is up. A group that shrank has its workers leave at their next step boundary, with
    a last snapshot, and forms anew with them; no step is lost by that.
    """
    settings = state.settings.nodes
    if settings is None or state.regrouping or not state.settings.rolls_back:
        return state, ()
    # A node that comes and goes must not keep the others from training.
    waited = now - max(event.since, state.launched_at)
    chosen = grown(settings, state.group, event.nodes, waited)
    if chosen is None:
        return state, ()
    return replace(state, regrouping=True), (RegroupWorkers(chosen),)


def _too_few(state: RunState, settings: NodeSettings, event: NodesSeen, now: float) -> Outcome:
    """What is in memory here may be newer than what is on disk."""
    failure, ending = _lost(state, settings, event, now), endings.nodes_missing(state, settings, event.nodes)
    remedy = f"stop: {ending.exit_code.name.lower().replace('_', ' ')}"
    state, incident = new_incident(state, failure, rank=None, remedy=remedy)
    after, decisions = flush(state, ending)
    return after, (RecordIncident(incident), *decisions)


def _lost(state: RunState, settings: NodeSettings, event: NodesSeen, now: float) -> Failure:
    gone = sorted(set(state.group.nodes) - set(event.nodes))
    who = f"{', '.join(gone)} did not come back" if gone else f"no more than {len(event.nodes)} nodes came"
    evidence = (f"there are {', '.join(sorted(event.nodes))}; wanted are {settings.count}",)
    return Failure(FailureClass.NODE_LOST, f"{who} within {now - event.since:.0f} s", evidence=evidence)
