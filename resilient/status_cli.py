"""``resilient status [RUN | conf=NAME | PATH] [--watch] [--json]``: how a run is, now.

Everything is read from the run's directory, so it works from any machine that sees that; where the run is up on this
one, its boards say more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from resilient.errors import ExitCode
from resilient.protocol.paths import RunPaths
from resilient.report.account import read_account
from resilient.report.live import Live, as_json, look
from resilient.report.live_text import plain_lines, view
from resilient.report.tracks import TrackReader
from resilient.runs import JOURNAL, named_run

_WATCH_SECONDS = 2.0
_SHARE = 20  # looking takes at most this part of the time: a long run's journal takes a while to read


def add_parser(commands: Any) -> None:
    """Add ``status`` to the subparsers of the command line."""
    text = "say how a run is now: progress, step time, loss, ranks, snapshots, incidents, goodput so far"
    parser = commands.add_parser("status", help=text, description=text)
    parser.add_argument(
        "overrides", nargs="*", metavar="RUN", help="the run (the latest by default), or conf=NAME; dir=runs"
    )
    parser.add_argument("--watch", action="store_true", help="go on showing it until the run has ended")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys; with --watch, one a line")


def run(options: argparse.Namespace, configured: Callable[[str, Sequence[str]], RunPaths]) -> ExitCode:
    """Carry it out.

    :param configured: the run that a configuration names, with changes to it.
    :raises RunNotFound: there is no such run.
    :raises JournalUnreadable: nothing has been written down of it.
    """
    paths = _paths(options.overrides, configured)
    if not options.watch:
        _print(look(read_account(paths)), as_json_=options.json)
        return ExitCode.FINISHED
    try:
        _watch(paths, as_json_=options.json)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return ExitCode.FINISHED


def _paths(words: Sequence[str], configured: Callable[[str, Sequence[str]], RunPaths]) -> RunPaths:
    named = [word.removeprefix("conf=") for word in words if word.startswith("conf=")]
    if not named:
        return named_run(words, JOURNAL)
    paths = configured(named[-1], [word for word in words if not word.startswith("conf=")])
    return named_run([f"run={paths.run_id}", f"dir={paths.root.parent}"], JOURNAL)


def _print(live: Live, *, as_json_: bool) -> None:
    if as_json_:
        print(json.dumps(as_json(live), indent=1))
    elif sys.stdout.isatty():
        Console(highlight=False).print(view(live))
    else:
        print("\n".join(plain_lines(live)))


def _watch(paths: RunPaths, *, as_json_: bool) -> None:
    if as_json_ or not sys.stdout.isatty():
        for live in _looks(paths):
            print(json.dumps(as_json(live)) if as_json_ else " | ".join(plain_lines(live)), flush=True)
        return
    from rich.live import Live as Screen  # noqa: PLC0415  all other commands do without it

    with Screen(console=Console(highlight=False), auto_refresh=False) as screen:
        for live in _looks(paths):
            screen.update(view(live), refresh=True)


def _looks(paths: RunPaths) -> Iterator[Live]:
    """One look after the other, until the run has ended."""
    metrics = TrackReader(paths.metrics.parent)
    while True:
        began = time.monotonic()
        live = look(read_account(paths, metrics=metrics))
        yield live
        if not live.account.live:
            return
        time.sleep(max(_WATCH_SECONDS, _SHARE * (time.monotonic() - began)))
