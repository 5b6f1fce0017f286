"""The words a run ends with: one paragraph that says what happened, how far it got, and what to do."""

from __future__ import annotations

from resilient.errors import ExitCode
from resilient.policy.decisions import EndRun
from resilient.policy.events import FlushEnded, Incident, RestoreFailed, SnapshotsListed, StopKind, StopRequested, Tier
from resilient.policy.lineage import Rollback, RollbackCause
from resilient.policy.nodes import NodeSettings, Shortage
from resilient.policy.restarts import Verdict
from resilient.policy.state import RunState
from resilient.policy.treatments import treatment
from resilient.policy.verdict import Verdict as VerdictOnReplay

_MOST_TOLD = 12  # sentences, or rollbacks, of a kind

_PROMISES_DURABILITY = frozenset({ExitCode.FINISHED, ExitCode.REQUEUE, ExitCode.TERMINATED})


def finished(state: RunState) -> EndRun:
    """Every rank has said that the run is finished."""
    return EndRun(ExitCode.FINISHED, f"Finished at step {state.step}.{_open_alarm(state)}")


def stopped(state: RunState, stop: StopRequested) -> EndRun:
    """It was asked to stop, and has."""
    requeue = stop.kind is StopKind.PREEMPTION
    why = "Preempted" if requeue else "Stopped by request"
    lineage, again = state.lineage, "start the same command again to carry on"
    if lineage.pending:
        again = f"{again}. It rolls back {lineage.rollbacks[-1].told}: {lineage.rollbacks[-1].reason}"
    return EndRun(_stop_code(stop), f"{why} at step {state.step}; {again}.{_open_alarm(state)}")


def _open_alarm(state: RunState) -> str:
    """A run may end before it is known whether it would have recovered."""
    known = state.lineage.known
    if known.onset is None:
        return ""
    good = known.newest_good()
    newest = (
        "No snapshot is known to be good" if good is None else f"The newest that is known to be good is step {good}"
    )
    return f" An alarm is open: what was trained since step {known.onset} may have diverged. {newest}."


def given_up(state: RunState, incident: Incident, verdict: Verdict) -> EndRun:
    """The stop rules say that another relaunch would not help."""
    where = f", in {incident.failure.where}" if incident.failure.where else ""
    return EndRun(
        verdict.exit_code,
        f"Stopped after step {state.step}: {verdict.reason}. {_began(incident)}, class: "
        f"{incident.failure.failure_class.value}{where}. {_tried(state)} "
        f"{treatment(incident.failure.failure_class).advice} "
        f"{_evidence(state, incident)}",
    )


def _began(incident: Incident) -> str:
    where = f"rank {incident.rank}" if incident.rank is not None else "the group"
    return f"It began on {where} after step {incident.step} of round {incident.round}{incident.followed}"


def _tried(state: RunState) -> str:
    """How many rounds were spent on it, and how many relaunches between them."""
    since = state.history.since_progress()
    relaunches = max(0, len(since) - 1)
    without = "1 round" if state.history.stuck == 1 else f"{state.history.stuck} rounds"
    again = "1 relaunch" if relaunches == 1 else f"{relaunches} relaunches" if relaunches else "no relaunch"
    ranks = {failed.rank for failed in since}
    same = f", always on rank {since[-1].rank}" if state.ranks > 1 and len(since) > 1 and len(ranks) == 1 else ""
    return f"Tried: {again}; {without} without progress{same}."


def diverged(state: RunState, incident: Incident, why: str) -> EndRun:
    """The loss diverged, and no rollback is left that could help."""
    lineage = state.lineage
    again = "No snapshot is older than that; a new run.id starts from the beginning."
    tried = lineage.rollbacks
    if lineage.pending:
        again = f"The same command goes on {_from(lineage.rollbacks[-1])}, before it."
        tried = tried[:-1]
    return EndRun(
        ExitCode.DIVERGED,
        f"Stopped after step {state.step}: {why}. {_seen(incident)} {_rollbacks(tried)} {again} "
        f"{treatment(incident.failure.failure_class).advice} {_evidence(state, incident)}",
    )


def untrusted(state: RunState, incident: Incident, verdict: VerdictOnReplay) -> EndRun:
    """The same steps give another result on other hardware, or once more on this."""
    lineage = state.lineage
    where = f" at step {verdict.step}" if verdict.step is not None else ""
    return EndRun(
        ExitCode.UNTRUSTED_NODE,
        f"Stopped after step {state.step}: this machine computes wrong{where}: {verdict.reason}. {_seen(incident)} "
        f"{_rollbacks(lineage.rollbacks[:-1])} The run does not go on here. Start the same command on another machine: "
        f"it goes on {_from(lineage.rollbacks[-1])}, with all of the data. Take this one out of service and have its "
        f"devices tested. {_evidence(state, incident)}",
    )


def nodes_missing(state: RunState, settings: NodeSettings, there: tuple[str, ...]) -> EndRun:
    """There are too few nodes, and no others came in time."""
    requeue = settings.shortage is Shortage.requeue
    strangers = "" if state.group.nodes else "; nodes find each other in the run's directory, which all must see"
    fewer = f"group.least={len(there)} would go on with those that are there" if settings.fewest > len(there) else ""
    return EndRun(
        ExitCode.REQUEUE if requeue else ExitCode.NODES_MISSING,
        f"Stopped after step {state.step}: {len(there)} of {settings.count} nodes are there ({', '.join(there)}), and "
        f"the run needs {settings.fewest}. Start the same command again on as many{strangers}"
        f"{f'; {fewer}' if fewer else ''}.",
    )


def target_lost(rollback: Rollback) -> EndRun:
    """A rollback is pending, and neither its target nor anything before it can be loaded."""
    return EndRun(
        ExitCode.NO_SNAPSHOT,
        f"The run is to be rolled back {rollback.told} ({rollback.reason}), and no snapshot of that step or before it "
        "can be loaded. What came after it is set aside and not deleted. Choose a new run.id to start from the "
        "beginning.",
    )


def _from(rollback: Rollback) -> str:
    return f"from step {rollback.target}" if rollback.target else "from the beginning"


def _seen(incident: Incident) -> str:
    seen = incident.failure.evidence or (incident.failure.headline,)
    return f"Seen: {'; '.join(seen[:_MOST_TOLD])}{incident.followed}."


def _rollbacks(tried: tuple[Rollback, ...]) -> str:
    """What was done about it before: of the last ones where, without which data and how fast."""
    told = [rollback.told for rollback in tried if rollback.cause is not RollbackCause.REQUEST]
    if not told:
        return "Tried: nothing yet."
    more = f"{len(told) - _MOST_TOLD} rollbacks, then " if len(told) > _MOST_TOLD else ""
    return f"Tried: {more}{'; '.join(told[-_MOST_TOLD:])}."


def _evidence(state: RunState, incident: Incident) -> str:
    return (
        f"The evidence is in incidents/{incident.number:04d}: resilient incidents {state.settings.seed or 'RUN'} "
        f"{incident.number}."
    )


def remote_unknown(problem: str) -> EndRun:
    """Nothing is here, and whether anything is in the remote tier cannot be found out."""
    return EndRun(
        ExitCode.REMOTE_UNAVAILABLE,
        "There is no snapshot on this machine, and what lies in the remote tier cannot be found out: "
        f"{problem}. Nothing was started, for that might lose all progress. When the cause is gone, "
        "start the same command again; remote.url= run.allow_drift=true starts without the remote tier.",
    )


def none_loadable(state: RunState, listed: SnapshotsListed) -> EndRun:
    """There were snapshots, and none of them can be loaded."""
    last = f", the last one step {state.rejected[-1].step} ({state.rejected[-1].reason})" if state.rejected else ""
    return EndRun(
        ExitCode.NO_SNAPSHOT,
        f"No snapshot of this run can be loaded: {max(len(state.rejected), listed.quarantined)} failed verification"
        f"{last}. They are kept beside the others, with the suffix .corrupt or, in the remote tier, with a mark "
        "corrupt.json. Starting over would lose all progress, so this is left to you: choose a new run.id to start "
        "from the beginning.",
    )


def not_restored(failed: RestoreFailed, tries: int) -> EndRun:
    """A snapshot that may be sound could not be brought into memory."""
    return EndRun(
        ExitCode.REMOTE_UNAVAILABLE if failed.tier is Tier.REMOTE else ExitCode.NO_SNAPSHOT,
        f"The snapshot of step {failed.step} could not be brought into memory, {tries} times: {failed.problem}. "
        "Nothing is lost: when the cause is gone, start the same command again.",
    )


def flushed(ending: EndRun, flush: FlushEnded, stop: StopRequested | None) -> EndRun:
    """``ending``, with what became durable; where that is less than it promises, another exit code."""
    durable = (
        f"Durable up to step {flush.step}." if flush.step is not None else flush.own or "No snapshot is durable yet."
    )
    told = f"{ending.diagnosis} {durable}"
    if flush.problem is not None:
        return EndRun(_code_of_undurable(ending, flush, stop), f"{told} Newer state is NOT durable: {flush.problem}.")
    if flush.remote_problem is not None:
        code = ExitCode.DISK_FULL if ending.exit_code is ExitCode.FINISHED else ending.exit_code
        again = "The same command tries again to upload it."
        return EndRun(code, f"{told} NOT in the remote tier: {flush.remote_problem}. {again}")
    return EndRun(ending.exit_code, told)


def _code_of_undurable(ending: EndRun, flush: FlushEnded, stop: StopRequested | None) -> ExitCode:
    if flush.late and ending.exit_code is ExitCode.FINISHED:
        # Not yet: the last steps will be done again from what is durable.
        return _stop_code(stop) if stop is not None else ExitCode.TERMINATED
    if not flush.late and ending.exit_code in _PROMISES_DURABILITY:
        return ExitCode.DISK_FULL
    return ending.exit_code


def _stop_code(stop: StopRequested) -> ExitCode:
    return ExitCode.REQUEUE if stop.kind is StopKind.PREEMPTION else ExitCode.TERMINATED
