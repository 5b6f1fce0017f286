"""The command line of ``resilient rollback``, and what it says."""

from __future__ import annotations

import argparse
from typing import Any

from resilient.errors import ExitCode
from resilient.rollback_cli.live import ask_supervisor
from resilient.rollback_cli.order import Plan, plan, read_order
from resilient.rollback_cli.stopped import roll_back
from resilient.snapshots_cli.output import tell
from resilient.snapshots_cli.target import find_target
from resilient.supervisor.request import supervisor_of

_HELP = """\
Go on from an earlier snapshot. A run that is up does so at once, with new workers; one that is not when it is started
again. What came after that snapshot is discarded: set aside first, as evidence, and deleted when the run has got over
it. A run that is finished can be rolled back too.

  resilient rollback run=demo to=good                    the newest snapshot that is known to be good
  resilient rollback run=demo step=120                   a certain one; resilient snapshots list run=demo shows them
  resilient rollback run=demo to=START                   the beginning; of a fork, the snapshot that it began with
  resilient rollback run=demo step=120 skip=140..155     leave out the data of these steps, as they are counted now
  resilient rollback run=demo to=good skip=all           leave out all data since that snapshot
  resilient rollback run=demo to=good lr=0.5             half the learning rate from there on
  resilient rollback run=demo dir=elsewhere/runs …       runs that are not in ./runs

With neither skip= nor lr=, the same steps are done again with the same data.
"""
_SECONDS = 60.0


def add_parser(commands: Any) -> None:
    """Add ``rollback`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "rollback",
        help="let a run go on from an earlier snapshot",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = "run=ID, dir=runs, step=50|latest|best|good or to=good|START, skip=FIRST..LAST|all|none, lr=0.5"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=keys)
    parser.add_argument(
        "--timeout",
        type=float,
        default=_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for the answer of a run that is up (default {_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry out the command.

    :raises UsageError: the command line cannot be understood, or leaves out data that is not there to be left out.
    :raises RunNotFound: there is no such run.
    :raises SnapshotNotFound: it has no such snapshot, or that is off the lineage.
    :raises SnapshotCorrupt: it has, and it cannot be loaded.
    :raises NotInTime: a run that is up does not answer.
    :raises RunLocked: the run is up on another machine.
    """
    target = find_target(options.overrides, ("run", "dir", "step", "to", "skip", "lr"), "resilient rollback run=demo …")
    order = read_order(target)
    if supervisor_of(target.paths) is not None:
        decided = plan(target, order)
        ask_supervisor(target.paths, decided, options.timeout)
        _tell(options, target.paths.run_id, decided, live=True)
    else:
        decided = roll_back(target, order)
        _tell(options, target.paths.run_id, decided, live=False)
    return ExitCode.FINISHED


def _tell(options: argparse.Namespace, run_id: str, decided: Plan, *, live: bool) -> None:
    when = "goes on now" if live else "goes on, when it is started again,"
    lines = [f"run {run_id} {when} {decided.told}"]
    if decided.reached > decided.target:
        lines.append(f"steps {decided.target + 1} to {decided.reached} are discarded")
    lines += decided.notes
    body = {
        "run": run_id,
        "target": decided.target,
        "reached": decided.reached,
        "skip": list(decided.skip) if decided.skip else None,
        "lr_factor": decided.lr_factor,
        "live": live,
        "notes": list(decided.notes),
    }
    tell(options, "\n".join(lines), body)
