"""The command line of all this."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from resilient.convert import command as convert
from resilient.errors import ExitCode
from resilient.snapshots_cli import exporting, keeping, looking
from resilient.snapshots_cli.target import Target, find_target

_Command = Callable[[Target, argparse.Namespace], ExitCode]
_ACTIONS: dict[str, tuple[_Command, str]] = {
    "list": (
        looking.list_all,
        "all snapshots of a run: tier, state, grade, size, age, metrics, and why retention keeps each",
    ),
    "show": (looking.show_one, "one snapshot in detail (step=latest by default)"),
    "verify": (looking.verify, "read every byte and compare it with the manifest; exit code 67 if anything differs"),
    "pin": (keeping.pin, "keep a snapshot, whatever retention says"),
    "unpin": (keeping.unpin, "leave a snapshot to retention again"),
    "prune": (keeping.prune, "delete now what retention does not want; not while the run is up"),
    "export": (
        exporting.export,
        "copy a snapshot to the directory to=PATH, the tensors of object=model to a file, or all in another format",
    ),
}
_KEYS = (
    "run=ID, dir=runs, step=50|latest|best|good, tier=local|remote, and retention.…=… or remote.…=… instead of its own"
)


def add_parser(commands: Any) -> None:
    """Add ``snapshot`` and ``snapshots`` to the subparsers of the command line."""
    one = commands.add_parser("snapshot", help="ask a run that is up for a durable snapshot, and wait for it")
    one.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait (default 600)")
    _add_common(one, "run=ID, and dir=runs")
    one.set_defaults(handler=keeping.ask)
    many = commands.add_parser("snapshots", help="list, verify, pin, prune and export a run's snapshots")
    actions = many.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (handler, text) in _ACTIONS.items():
        parser = actions.add_parser(name, help=text, description=text)
        _add_common(parser, _KEYS)
        parser.set_defaults(handler=handler)
        if name in {"list", "show"}:
            parser.add_argument("--local", action="store_true", help="do not ask the remote tier")
        if name == "list":
            parser.add_argument("--all", action="store_true", help="those too that a rollback has discarded")
        if name == "verify":
            parser.add_argument("--quarantine", action="store_true", help="set aside what is corrupt")
        if name == "prune":
            parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
            parser.add_argument("--discarded", action="store_true", help="delete what rollbacks have discarded as well")
        if name == "export":
            parser.add_argument("--force", action="store_true", help="replace what was exported there before")
            convert.add_form_arguments(parser)


def _add_common(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry out one of these commands."""
    target = find_target(options.overrides)
    handler: _Command = options.handler
    return handler(target, options)
