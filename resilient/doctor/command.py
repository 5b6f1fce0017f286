"""``resilient doctor [conf=NAME key=value …]``: what will not work here, and what to do about it."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from resilient.doctor.check import Check, chosen
from resilient.doctor.examination import examine
from resilient.doctor.finding import Level
from resilient.doctor.registry import CHECKS
from resilient.doctor.report import as_json, listing, render
from resilient.doctor.subject import Configured, Subject
from resilient.doctor.world import World
from resilient.errors import ConfigurationError, ExitCode, UsageError

Compose = Callable[[str, Sequence[str]], Configured]
"""From ``conf`` and overrides to the checked configuration."""

_HELP = """\
Look at this machine, and at a configuration that is to run on it, and say in plain words what will not work and what
to do about it. Run it where training will run: inside the job, inside the container.

  resilient doctor                                 the machine alone
  resilient doctor conf=mine run.dir=/scratch/me   and what that configuration needs of it
  resilient doctor conf=mine --only disk,memory    some of the checks
  resilient doctor --list                          what is checked

What is tried, is tried in the run directory and removed afterwards. A check that hangs is given up after its time.
"""


def add_parser(commands: Any) -> None:
    """Add ``doctor`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say what of this machine, and of a configuration on it, will not work",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="conf=NAME and changes to the configuration")
    parser.add_argument("--only", metavar="CHECK,…", default="", help="these checks, or groups of them, alone")
    parser.add_argument("--list", action="store_true", help="explain all checks and stop")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace, compose: Compose) -> ExitCode:
    """Carry out the command.

    :raises UsageError: a check is not known, or the command line cannot be understood.
    """
    checks = _chosen(options.only)
    if options.list:
        print(listing(checks))
        return ExitCode.FINISHED
    world = _world(options.overrides, compose)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no process could be waited for; the world knows
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)
    results = examine(checks, world)
    if options.json:
        print(as_json(results))
    else:
        render(results, sys.stdout)
    found = any(result.finding.level is Level.PROBLEM for result in results)
    return ExitCode.WILL_NOT_WORK if found else ExitCode.FINISHED


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End in good order, so that nothing is left behind."""
    sys.exit(128 + number)


def _chosen(only: str) -> list[Check]:
    checks, unknown = chosen(CHECKS, [name.strip() for name in only.split(",") if name.strip()])
    if unknown:
        known = sorted({check.name for check in CHECKS} | {check.group for check in CHECKS})
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {close[0]}?" if close else "resilient doctor --list names them"
        raise UsageError(f"--only {unknown[0]}: there is no such check", hint)
    return checks


def _world(overrides: Sequence[str], compose: Compose) -> World:
    """The world with the configuration that was named; one that cannot be used is a finding and no error.

    :raises UsageError: it is changed, but not named.
    """
    named = [text.removeprefix("conf=") for text in overrides if text.startswith("conf=")]
    changes = [text for text in overrides if not text.startswith("conf=")]
    if len(named) > 1 or (changes and not named):
        raise UsageError("exactly one conf=NAME goes with changes to it", "for example: resilient doctor conf=demo")
    if not named:
        return World()
    try:
        return World(Subject.of(compose(named[0], changes)))
    except ConfigurationError as error:
        return World(fault=(error.problem, error.remedy))
