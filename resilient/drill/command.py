"""``resilient drill``: faults on the user's own configuration, in scratch runs."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from resilient.drill.reference import find_reference
from resilient.drill.report import fault_table, outcome_table
from resilient.drill.request import Request, check_ranks, length_override
from resilient.drill.session import Session
from resilient.drill.verdict import Outcome, all_passed, as_json
from resilient.errors import ConfigurationError, ExitCode
from resilient.protocol.interruption import stopped_by_signals

Compose = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""From ``conf`` and overrides to the composed and checked configuration."""

_HELP = """\
Do something bad to a run of your configuration, and see what becomes of it: what was noticed and when, how long it
took to get back to new steps, how many steps were repeated, and whether all losses and the final state are those of a
run that nothing was done to, bit for bit. Your own runs are not touched: every fault has a scratch run of its own.

  resilient drill --list                                       all faults, a line for each
  resilient drill conf=demo fault=kill train.steps=80          kill a worker half way through
  resilient drill conf=mine fault=kill,hang,preempt at=50      three drills, after step 50
  resilient drill conf=mine fault=all at=0.3,0.8 --steps 200   every fault, early and late, in runs of 200 steps
  resilient drill conf=mine fault=kill at=random seed=7        somewhere; the seed is printed
  resilient drill conf=mine fault=spike at=50 steps=5 factor=30
  resilient drill conf=mine fault=kill --reference mine        compare with a run that is finished already

Words without a dot are the drill's; everything else changes the configuration, as in resilient train. Where the script
writes files of its own, send them elsewhere with an override. A remote tier is switched off.
"""


def add_parser(commands: Any) -> None:
    """Add ``drill`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "drill",
        help="inject faults into a scratch run of your configuration, and judge what becomes of it",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="conf=NAME fault=NAME,…|all at=STEP,…|FRACTION|random rank=0 seed=…, what the fault takes, and overrides",
    )
    parser.add_argument("--list", action="store_true", help="explain all faults and stop")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the runs, where train has a key for it")
    parser.add_argument("--reference", metavar="RUN", help="a finished run of the same settings to compare with")
    parser.add_argument("--dir", type=Path, help="where the scratch runs are (default: runs/drill-<conf>-<time>)")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="for each run with a fault")
    parser.add_argument("--keep", action="store_true", help="keep the scratch runs although all has gone well")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace, compose: Compose) -> ExitCode:
    """Carry out the command.

    :raises UsageError: the command line cannot be understood.
    :raises ConfigurationError: a fault, a value or the configuration is wrong.
    """
    if options.list:
        _out().print(fault_table())
        return ExitCode.FINISHED
    request = Request.of(options.overrides)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    session = _session(options, request, compose, lambda text: console.print(f"drill │ {text}", markup=False))
    try:
        with stopped_by_signals():
            return _carry_out(session, options)
    except KeyboardInterrupt:
        console.print("drill │ stopped by request; nothing is left of it")
        return ExitCode.TERMINATED


def _session(options: argparse.Namespace, request: Request, compose: Compose, say: Callable[[str], None]) -> Session:
    overrides, tree = list(request.overrides), compose(request.conf, request.overrides)
    if options.steps is not None:
        overrides.append(length_override(options.steps, tree.get("train", {})))
    if tree.get("remote", {}).get("url"):
        overrides.append("remote.url=''")
        say("the remote tier is switched off")
    name = f"drill-{Path(request.conf).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = (options.dir or Path(tree["run"]["dir"]) / name).absolute()
    if request.seed is None and "random" in request.at:
        request = replace(request, seed=random.SystemRandom().randrange(1 << 16))
    if "random" in request.at:
        say(f"seed={request.seed}")
    tree = compose(request.conf, overrides)
    check_ranks(request.faults, max(1, int(tree["worker"].get("ranks", 1))))
    return Session(directory, request, tree, overrides, say, options.timeout)


def _carry_out(session: Session, options: argparse.Namespace) -> ExitCode:
    if options.reference is not None:
        reference = find_reference(options.reference, Path(session.tree["run"]["dir"]), session.tree)
    session.open()
    try:
        if options.reference is None:
            reference = session.make_reference()
        outcomes = session.drill_all(reference)
    except (KeyboardInterrupt, ConfigurationError):
        session.remove()
        raise
    passed = all_passed(outcomes)
    kept = options.keep or not passed
    if kept:
        session.say(f"the scratch runs are kept in {session.directory}")
    else:
        session.remove()
    _print(outcomes, session, options, kept=kept)
    return ExitCode.FINISHED if passed else ExitCode.DRILL_FAILED


def _print(outcomes: Sequence[Outcome], session: Session, options: argparse.Namespace, *, kept: bool) -> None:
    if not options.json:
        _out().print(outcome_table(outcomes))
        return
    body = {
        "conf": session.request.conf,
        "seed": session.request.seed,
        "directory": str(session.directory) if kept else None,
        "passed": all_passed(outcomes),
        "drills": [as_json(outcome) for outcome in outcomes],
    }
    print(json.dumps(body, indent=1, allow_nan=False), file=sys.stdout)


def _out() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=180)  # a log has room for a table
