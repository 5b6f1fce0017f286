"""A run that nobody supervises: the rollback is written down here, and the next supervisor finds it pending."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from resilient.errors import RunDirectoryNotWritable, RunLocked, UsageError
from resilient.policy.lineage import Lineage, Rollback, RollbackCause
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.lock import Owner, kept_idle
from resilient.protocol.paths import RunPaths, hostname
from resilient.rollback_cli.order import Order, Plan, plan
from resilient.snapshots_cli.target import Target
from resilient.supervisor.history import read_history
from resilient.supervisor.journal import read_journal
from resilient.supervisor.status import Status


def roll_back(target: Target, order: Order) -> Plan:
    """Write it down; nothing else is touched. Durable when this returns.

    :raises RunLocked: somebody supervises the run after all, or does so on another machine.
    :raises UsageError: nobody ever has: a script that runs by itself knows nothing of rollbacks.
    :raises RunDirectoryNotWritable: it cannot be written down.
    """
    paths = target.paths
    if not any(paths.journal.parent.glob("*.jsonl")):
        raise UsageError(
            f"the run {paths.run_id} was never supervised, and what trains without a supervisor is not rolled back",
            "start it with resilient train, or delete the snapshots that you do not want",
        )
    with _idle(paths):
        decided = plan(target, order)
        lineage, decided = _decided(paths, target.standing().lineage, decided, order)
        _unfinish(paths, decided)
        write_lineage(paths, lineage)
    return decided


@contextmanager
def _idle(paths: RunPaths) -> Iterator[None]:
    """While inside, no supervisor can start on this run; on another machine it could not be asked from here."""
    try:
        paths.lock.touch()  # one that starts here in this moment waits for it
    except OSError as error:
        raise RunDirectoryNotWritable(f"{paths.root} cannot be written: {error.strerror}") from error
    try:
        with kept_idle(paths.locks()):
            yield
    except RunLocked as error:
        owners = (Owner.read(path) for path in paths.locks())
        elsewhere = sorted({owner.host for owner in owners if owner is not None} - {hostname()})
        raise RunLocked(
            error.problem, f"run this command on {' or '.join(elsewhere)}" if elsewhere else error.remedy
        ) from error


def _decided(paths: RunPaths, before: Lineage, decided: Plan, order: Order) -> tuple[Lineage, Plan]:
    """The lineage with the rollback. The data that earlier ones were to leave out, and that no round has come to, are
    left out still, unless it is said what is to be left out in their place.
    """
    if order.said_skip and before.pending:
        before = before.without_unresolved()
    if before.unresolved:
        steps = " and ".join(f"{first} to {last}" for first, last in before.unresolved)
        note = f"the data of steps {steps} are left out as an earlier rollback, which has not begun yet, had it"
        decided = replace(decided, notes=(note,))
    rollback = Rollback(
        target=decided.target,
        reached=decided.reached,
        round=_last_round(paths),
        skip=decided.skip,
        lr_factor=before.lr_factor * decided.lr_factor,
        cause=RollbackCause.REQUEST,
        reason="a person asked for it while the run was not up",
    )
    return before.rolled_back(rollback), decided


def _last_round(paths: RunPaths) -> int:
    """The last round that may have taken a snapshot, on whatever machine."""
    journals = paths.journal.parent.glob("*.jsonl")
    return max([paths.last_round(), *(read_history(read_journal(path)).last_round for path in journals)])


def _unfinish(paths: RunPaths, decided: Plan) -> None:
    """Say that the run is not finished, if it was. Said before the rollback is written down: a run that is not finished
    and not rolled back either is finished again as soon as it is started.
    """
    status = Status.read(paths.status)
    if status is None or not status.finished:
        return
    told = f"Rolled back by a person: the same command goes on {decided.told}."
    try:
        replace(status, state="rolled back", step=decided.target, exit_code=None, diagnosis=told).write(paths.status)
    except OSError as error:
        raise RunDirectoryNotWritable(f"{paths.status} cannot be written: {error.strerror}") from error
