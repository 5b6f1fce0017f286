"""``resilient report [RUN] [--text] [--json] [--html FILE]``: where a run's time went, and what happened in it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from resilient.errors import ExitCode, RunDirectoryNotWritable
from resilient.report.account import read_account
from resilient.report.account_json import as_json
from resilient.report.account_text import render
from resilient.report.page.page import page
from resilient.runs import JOURNAL, named_run


def add_parser(commands: Any) -> None:
    """Add ``report`` to the subparsers of the command line."""
    text = "say where a run's time went: goodput, incidents with their costs, rounds; as text, JSON or one HTML file"
    parser = commands.add_parser("report", help=text, description=text)
    parser.add_argument("overrides", nargs="*", metavar="RUN", help="the run (the latest by default); dir=runs")
    parser.add_argument("--text", action="store_true", help="print text, also where something else is made")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained HTML file")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out.

    :raises RunNotFound: there is no such run.
    :raises JournalUnreadable: nothing has been written down of it.
    :raises RunDirectoryNotWritable: the file cannot be written.
    """
    account = read_account(named_run(options.overrides, JOURNAL))
    if options.html:
        _write(Path(options.html), page(account))
        print(f"the report of {account.paths.run_id} is in {options.html}", file=sys.stderr)
    if options.json:
        print(json.dumps(as_json(account), indent=1))
    if options.text or not (options.json or options.html):
        render(account, sys.stdout)
    return ExitCode.FINISHED


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryNotWritable(f"{path} cannot be written: {error.strerror}", "name another file") from error
