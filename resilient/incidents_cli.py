"""``resilient incidents [RUN] [N] [--json]``: what happened to a run, and the evidence of one of it."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from resilient.errors import ExitCode, RunNotFound, UsageError
from resilient.protocol.paths import RunPaths
from resilient.report.incidents import IncidentReport, incident_reports, incident_table
from resilient.runs import JOURNAL, find_run, latest_run

_TAIL_LINES = 20
_KEYS = ("run", "dir", "n")


def add_parser(commands: Any) -> None:
    """Add ``incidents`` to the subparsers of the command line."""
    text = "list what happened to a run, or show one incident with its evidence"
    parser = commands.add_parser("incidents", help=text, description=text)
    parser.add_argument(
        "overrides", nargs="*", metavar="RUN N", help="the run (the latest by default), a number; dir=runs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry out the command."""
    paths, number = _target(options.overrides)
    reports = incident_reports(paths)
    if number is None:
        _list(paths, reports, as_json=options.json)
        return ExitCode.FINISHED
    report = next((report for report in reports if report.number == number), None)
    evidence = _evidence(paths.incident(number))
    if report is None and not evidence:
        known = f"it has {len(reports)}" if reports else "it has none"
        raise RunNotFound(f"the run {paths.run_id} has no incident {number}", known)
    _show(paths, number, report, evidence, as_json=options.json)
    return ExitCode.FINISHED


def _list(paths: RunPaths, reports: Sequence[IncidentReport], *, as_json: bool) -> None:
    if as_json:
        rows = [{**asdict(report), "evidence": _place(paths, report.number)} for report in reports]
        print(json.dumps({"run": paths.run_id, "incidents": rows}, indent=1))
    elif reports:
        Console(file=sys.stdout).print(incident_table(reports))
        print(f"one of them with its evidence: resilient incidents {paths.run_id} N")
    else:
        print(f"the run {paths.run_id} has had no incident")


def _show(
    paths: RunPaths, number: int, report: IncidentReport | None, evidence: Mapping[str, Any], *, as_json: bool
) -> None:
    price = asdict(report) if report is not None else {}
    if as_json:
        place = _place(paths, number)
        print(json.dumps({"run": paths.run_id, **price, **evidence, "evidence_dir": place}, indent=1))
        return
    failure = evidence.get("message") or (report.message or report.signature if report is not None else "")
    name = evidence.get("class") or (report.failure_class if report is not None else "")
    rank, step = evidence.get("rank"), evidence.get("step", price.get("step"))
    print(f"incident {number} of run {paths.run_id}: {name}")
    print(f"  what      {failure}")
    print(f"  where     {'the group' if rank is None else f'rank {rank}'}, after step {step}", end="")
    print(f", round {evidence['round']}" if "round" in evidence else "")
    if (at := evidence.get("time", price.get("time"))) is not None:
        print(f"  when      {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}")
    print(f"  remedy    {evidence.get('remedy', '–')}")
    _print_lines("evidence", evidence.get("evidence", ()))
    _print_lines("others", evidence.get("others", ()))
    if report is not None and report.resumed_from is not None:
        lost = "" if report.seconds_lost is None else f", {report.seconds_lost:.2f} s lost"
        print(f"  cost      resumed from step {report.resumed_from} ({report.source}), {report.steps_repeated} steps")
        print(f"            repeated{lost}")
    _print_files(paths.incident(number), rank)


def _print_lines(name: str, lines: Sequence[str]) -> None:
    for index, line in enumerate(lines):
        print(f"  {name if index == 0 else '':<9} {line}")


def _print_files(place: Path, rank: int | None) -> None:
    if not place.is_dir():
        print("  files     none are kept")
        return
    print(f"  files     {place}: {', '.join(sorted(path.name for path in place.iterdir()))}")
    log = place / f"rank-{0 if rank is None else rank:05d}.log"
    if log.is_file():
        print(f"  the end of {log.name}:")
        for line in log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]:
            print(f"    {line}")


def _place(paths: RunPaths, number: int) -> str | None:
    place = paths.incident(number)
    return str(place) if place.is_dir() else None


def _evidence(place: Path) -> dict[str, Any]:
    try:
        loaded = json.loads((place / "incident.json").read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _target(words: Sequence[str]) -> tuple[RunPaths, int | None]:
    """The run and the number that are meant.

    :raises UsageError: the words make no sense.
    :raises RunNotFound: there is no such run.
    """
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    for key in pairs.keys() - set(_KEYS):
        close = difflib.get_close_matches(key, _KEYS, 1)
        raise UsageError(f"{key}= is not known here", f"did you mean {close[0]}=?" if close else "known are run=, dir=")
    plain = [word for word in words if "=" not in word]
    directory = Path(pairs.get("dir", "runs"))
    number = pairs.get("n", "")
    if not number and plain and plain[-1].isdecimal() and not (len(plain) == 1 and (directory / plain[0]).is_dir()):
        number = plain.pop()
    if number and not number.isdecimal():
        raise UsageError(f"{number} is no number of an incident", "for example: resilient incidents demo 3")
    named = pairs.get("run", "") or (plain.pop(0) if plain else "")
    if plain:
        raise UsageError(f"{plain[0]} is one word too many", "for example: resilient incidents demo 3")
    paths = find_run(named, directory, JOURNAL) if named else latest_run(directory)
    return paths, int(number) if number else None
