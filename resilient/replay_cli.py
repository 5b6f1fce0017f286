"""``resilient replay``: the decisions of a journal, taken again by today's policy; or the divergence detectors over a
curve again.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from resilient.config import Config, builtin_directory, load
from resilient.errors import ConfigurationError, ExitCode, JournalUnreadable, RunNotFound, UsageError
from resilient.policy.state import PolicySettings
from resilient.protocol.decoding import NotDecodable, decode
from resilient.protocol.paths import RunPaths
from resilient.report.curves import file_curve, run_curve
from resilient.report.replay import Replay, read_lines, replay
from resilient.report.replay_table import as_json, render
from resilient.report.tuning import trials, try_out, watching
from resilient.report.tuning_table import as_json as detectors_as_json
from resilient.report.tuning_table import render as render_detectors
from resilient.runs import JOURNAL, find_run
from resilient.supervisor.journal import plain
from resilient.verify.window import read_configuration

_SECTION = "divergence"
_HELP = """\
Take the decisions of a journal again, with today's policy, and show where it decides otherwise.

  resilient replay demo                                a run in ./runs, or dir=… ; all of its hosts' journals
  resilient replay runs/demo/journal/host.jsonl        one journal
  resilient replay demo --set restarts.crash_loop=5    what if: with another setting
  resilient replay demo --conf mine                    with the policy settings of a configuration

The exit code is 0 where every decision is the same, 1 where one is not.

With --metrics, the divergence detectors read the curve again, and each alarm that would have come is shown; nothing is
done about it. That is how they are fitted to curves of your own, of runs and of any other file:

  resilient replay demo --metrics                                         with the run's own settings
  resilient replay demo --metrics --set divergence=strict                 and with a preset
  resilient replay demo --metrics --set divergence.metrics.loss.spike.threshold=3,4,5     and with each of three
  resilient replay losses.jsonl --metrics     {"step": 1, "loss": 2.5} a line; or CSV with a heading; or bare numbers
  resilient replay ppo.csv --metrics --set divergence.metrics.reward.higher_is_worse=false     a metric of another name
"""


def add_parser(commands: Any) -> None:
    """Add ``replay`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "replay",
        help="take a journal's decisions again, or have the divergence detectors read a curve again",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="RUN", help="a run's id, its directory, or a file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dir=runs, where the runs are")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting to try")
    parser.add_argument("--conf", default="", metavar="NAME", help="a configuration whose policy settings to try")
    parser.add_argument("--metrics", action="store_true", help="have the divergence detectors read the metrics again")
    parser.add_argument("--all", action="store_true", help="show every event, not only where the decisions differ")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out.

    :raises RunNotFound: there is no such run, or it has no journal.
    :raises JournalUnreadable: a journal cannot be read.
    :raises CurveUnreadable: there are no metrics.
    :raises ConfigurationError: the settings to try are wrong.
    """
    if options.metrics:
        return _try_detectors(options)
    journals = _journals(options.target, options.overrides)
    configured = load(options.conf, []).config if options.conf else None
    _changed(PolicySettings(), configured, options.set)  # before anything is printed, whether they can be used

    results = {
        path: replay(read_lines(path), lambda settings: _changed(settings, configured, options.set))
        for path in journals
    }
    if not any(found.judged for found in results.values()):
        problems = "; ".join(problem for found in results.values() for problem in found.problems[:3])
        raise JournalUnreadable(f"nothing in {journals[0]} can be replayed", problems)
    _print(results, options)
    return ExitCode.DIFFERENT if any(found.differences for found in results.values()) else ExitCode.FINISHED


def _print(results: Mapping[Path, Replay], options: argparse.Namespace) -> None:
    if options.json:
        body = [{"journal": str(path), **as_json(found)} for path, found in results.items()]
        print(json.dumps({"journals": body}, indent=1, allow_nan=False))
        return
    for path, found in results.items():
        if len(results) > 1:
            print(path)
        render(found, sys.stdout, everything=options.all)


def _try_detectors(options: argparse.Namespace) -> ExitCode:
    """Show what the divergence detectors find, with the settings as they are and with those to try."""
    path = Path(options.target)
    tree: Mapping[str, Any] = {}
    if path.is_file():
        curve = file_curve(path)
    else:
        paths = _run(options.target, options.overrides)
        curve, tree = run_curve(paths), read_configuration(paths).get(_SECTION) or {}
    if options.conf:
        tree = plain(load(options.conf, []).config.divergence)
    outcomes = [try_out(curve, trial) for trial in trials(watching(tree, curve), options.set, _presets())]
    if options.json:
        print(json.dumps(detectors_as_json(curve, outcomes), indent=1, allow_nan=False))
    else:
        render_detectors(curve, outcomes, sys.stdout)
    return ExitCode.FINISHED


def _presets() -> dict[str, Any]:
    """The presets of the section, those in ``./conf`` before the built-in ones of the same name."""
    places = [builtin_directory("conf"), Path.cwd() / "conf"]
    return {
        path.stem: yaml.safe_load(path.read_text()) or {}
        for place in places
        for path in sorted((place / _SECTION).glob("*.yaml"))
    }


def _run(target: str, overrides: Sequence[str]) -> RunPaths:
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    if unknown := [text for text in overrides if text.split("=")[0] != "dir"]:
        raise UsageError(f"{unknown[0]} is not understood", "replay knows dir=…; settings to try are given with --set")
    path = Path(target)
    return RunPaths(path) if (path / JOURNAL).is_dir() else find_run(target, Path(given.get("dir", "runs")), JOURNAL)


def _journals(target: str, overrides: Sequence[str]) -> list[Path]:
    path = Path(target)
    if path.is_file():
        return [path]
    paths = _run(target, overrides)
    found = sorted((paths.root / "journal").glob("*.jsonl"))
    if not found:
        raise RunNotFound(f"there is no journal in {paths.root}", "name a run of ./runs, its directory, or a journal")
    return found


def _changed(settings: PolicySettings, configured: Config | None, changes: Sequence[str]) -> PolicySettings:
    """The settings to replay with, from those that were recorded."""
    if configured is not None:
        names = [field.name for field in dataclasses.fields(PolicySettings) if hasattr(configured, field.name)]
        settings = dataclasses.replace(settings, **{name: getattr(configured, name) for name in names})
    if not changes:
        return settings
    body = plain(settings)
    for change in changes:
        _apply(body, change)
    try:
        found: PolicySettings = decode(PolicySettings, body)
    except NotDecodable as error:
        raise ConfigurationError(f"--set: {error}") from error
    return found


def _apply(body: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"--set {change} has no value", "write --set restarts.crash_loop=5")
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(body.get(section), dict):
            raise ConfigurationError(f"--set: {key} is not a policy setting", f"known are: {', '.join(body)}")
        body = body[section]
    if name not in body or isinstance(body[name], dict):
        near = difflib.get_close_matches(name, body, 1)
        raise ConfigurationError(
            f"--set: {key} is not a policy setting",
            f"did you mean {'.'.join([*sections, near[0]])}?" if near else f"known are: {', '.join(body)}",
        )
    try:
        body[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set: {key}: {text!r} is no value") from error
