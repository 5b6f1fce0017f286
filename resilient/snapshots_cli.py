"""``resilient snapshot`` and ``resilient snapshots …``: asking for a snapshot, and looking after those there are.

Everything here is safe while the run is up: looking only reads, pins are seen by the run's own retention, and what
would get in its way is refused.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import yaml

from resilient.errors import ExitCode, RunNotFound, SnapshotCorrupt, SnapshotNotFound, UsageError
from resilient.protocol.lock import kept_idle
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import RetentionSettings
from resilient.report.snapshots import as_json, render
from resilient.snapshot import catalog, pins
from resilient.snapshot.inventory import Item, State, candidates, inventory
from resilient.snapshot.prune import prune, review
from resilient.snapshot.retention import Candidate, best_first
from resilient.snapshot.storage import Storage
from resilient.supervisor.request import wait_for_snapshot

_KEYS = ("run", "dir", "step")


@dataclass(frozen=True)
class Target:
    """The run that is meant, and what its configuration says.

    :param configured: the saved configuration; empty for a run without a supervisor.
    :param overrides: ``retention.*`` from the command line.
    """

    paths: RunPaths
    step: str = ""
    configured: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retention(self) -> RetentionSettings:
        return RetentionSettings.of({**self._section("retention"), **self.overrides})

    @property
    def memory_dir(self) -> str:
        return str(self._section("snapshot").get("memory_dir", ""))

    def _section(self, name: str) -> dict[str, Any]:
        section = self.configured.get(name)
        return dict(section) if isinstance(section, Mapping) else {}

    def items(self) -> tuple[Item, ...]:
        return inventory(self.paths.snapshots)

    def chosen(self, default: str = "") -> Item:
        """The snapshot that ``step=`` means.

        :raises SnapshotNotFound: there is none.
        """
        items, wanted = self.items(), self.step or default
        loadable = candidates(items)
        if wanted == "latest":
            steps = [candidate.step for candidate in loadable][-1:]
        elif wanted == "best":
            steps = self._best(loadable)
        elif wanted.isdecimal():
            steps = [int(wanted)]
        else:
            raise UsageError(f"step={wanted} is no step", "use step=50, step=latest or step=best")
        found = [item for item in items if item.step in steps]
        if not found:
            raise self._missing(wanted, items)
        return min(found, key=lambda item: item.quarantined)

    def _best(self, loadable: Sequence[Candidate]) -> list[int]:
        settings = self.retention
        if not settings.best_metric:
            raise UsageError("step=best: best by which metric?", "add retention.best_metric=NAME, and best_mode if max")
        return best_first(loadable, settings.best_metric, settings.best_mode)[:1]

    def _missing(self, wanted: str, items: Sequence[Item]) -> SnapshotNotFound:
        steps = sorted({item.step for item in items})
        there = ", ".join(map(str, steps[-10:])) if steps else "there are none"
        known = f"the last of its {len(steps)}: {there}" if len(steps) > 10 else f"those of the run: {there}"
        return SnapshotNotFound(f"the run {self.paths.run_id} has no snapshot step={wanted}", known)


def find_target(overrides: Sequence[str]) -> Target:
    """Read ``run=… dir=… step=… retention.…=…``.

    :raises UsageError: a key is not known, or no run is named.
    :raises RunNotFound: there is no such run.
    """
    pairs = dict(text.split("=", 1) for text in overrides)
    plain = {key: value for key, value in pairs.items() if not key.startswith("retention.")}
    for key in plain.keys() - set(_KEYS):
        close = difflib.get_close_matches(key, _KEYS, 1)
        raise UsageError(
            f"{key}= is not known here", f"did you mean {close[0]}=?" if close else "known are run, dir, step"
        )
    if not plain.get("run"):
        raise UsageError("run=ID is needed", "for example: resilient snapshots list run=demo")
    paths = RunPaths.of(plain.get("dir", "runs"), plain["run"])
    if not paths.snapshots.is_dir():
        raise _no_run(paths)
    retention = {key.removeprefix("retention."): yaml.safe_load(pairs[key]) for key in pairs.keys() - plain.keys()}
    return Target(paths, plain.get("step", ""), _saved_configuration(paths), retention)


def _no_run(paths: RunPaths) -> RunNotFound:
    parent = paths.root.parent
    known = sorted(path.parent.name for path in parent.glob("*/snapshots")) if parent.is_dir() else []
    close = difflib.get_close_matches(paths.run_id, known, 1)
    if close:
        return RunNotFound(f"there is no run {paths.run_id} in {parent}", f"did you mean run={close[0]}?")
    there = f"there are: {', '.join(known[:20])}" if known else "there are no runs; name their directory with dir=…"
    return RunNotFound(f"there is no run {paths.run_id} in {parent}", there)


def _saved_configuration(paths: RunPaths) -> Mapping[str, Any]:
    try:
        loaded = yaml.safe_load(paths.config.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, Mapping) else {}


# --- the commands


def ask(target: Target, options: argparse.Namespace) -> ExitCode:
    """Ask a run that is up for a durable snapshot and wait for it."""
    manifest = wait_for_snapshot(target.paths, target.memory_dir, options.timeout)
    if options.json:
        _print_json({"run": target.paths.run_id, "step": manifest.step, "identity": manifest.identity})
    else:
        print(f"step {manifest.step} is durable in {target.paths.snapshot(manifest.step)}")
    return ExitCode.FINISHED


def _list(target: Target, options: argparse.Namespace) -> ExitCode:
    items = target.items()
    _show(target, items, items, options)
    return ExitCode.FINISHED


def _show_one(target: Target, options: argparse.Namespace) -> ExitCode:
    chosen = target.chosen(default="latest")
    _show(target, target.items(), [chosen], options)
    return ExitCode.FINISHED


def _show(target: Target, items: Sequence[Item], shown: Sequence[Item], options: argparse.Namespace) -> None:
    verdict = review(target.paths.snapshots, items, target.retention)
    rows = as_json(items, verdict, now=time.time())
    paths = {str(item.path) for item in shown}
    chosen = [row for row in rows if row["path"] in paths]
    if options.json:
        _print_json({"run": target.paths.run_id, "snapshots": chosen})
    else:
        render(chosen, sys.stdout, detailed=options.action == "show")


def _verify(target: Target, options: argparse.Namespace) -> ExitCode:
    """Read every byte. One snapshot when a step is given, otherwise all that have not been set aside."""
    items = [target.chosen()] if target.step else [item for item in target.items() if not item.quarantined]
    with ExitStack() as stack:
        if options.quarantine:
            stack.enter_context(kept_idle(target.paths.locks()))
        checked = [_verified(item, quarantine=options.quarantine) for item in items]
    results = [result for result in checked if result is not None]
    if target.step and not results:
        raise SnapshotNotFound(f"the snapshot of step {items[0].step} was deleted while it was being read")
    if options.json:
        _print_json({"run": target.paths.run_id, "snapshots": results})
    for result in [] if options.json else results:
        aside = f"; kept as {result['quarantined_as']}" if result["quarantined_as"] else ""
        print(f"step {result['step']}: {result['problem'] or 'every byte is as it was written'}{aside}")
    return ExitCode.FINISHED if all(result["ok"] for result in results) else ExitCode.NO_SNAPSHOT


def _verified(item: Item, *, quarantine: bool) -> dict[str, Any] | None:
    """The result, or None if retention has deleted the snapshot meanwhile."""
    problem, kept_as = "", ""
    try:
        catalog.verify(item.path)
    except SnapshotCorrupt as error:
        if not item.path.exists():
            return None
        problem = error.problem
        if quarantine and not item.quarantined:
            kept_as = catalog.quarantine(Storage(), item.path).name
    return {"step": item.step, "ok": not problem, "problem": problem, "quarantined_as": kept_as}


def _pin(target: Target, options: argparse.Namespace) -> ExitCode:
    item = _named(target)
    if item.state is State.CORRUPT:
        raise SnapshotCorrupt(f"step {item.step} cannot be pinned: {item.problem}")
    pins.pin(Storage(), target.paths.snapshots, item.step)
    _tell(options, f"step {item.step} is pinned", {"step": item.step, "pinned": True})
    return ExitCode.FINISHED


def _unpin(target: Target, options: argparse.Namespace) -> ExitCode:
    # a pin may have outlived its snapshot, so a number is taken as it is
    step = int(target.step) if target.step.isdecimal() else _named(target).step
    was_pinned = pins.unpin(Storage(), target.paths.snapshots, step)
    if not was_pinned:
        raise SnapshotNotFound(f"step {step} of {target.paths.run_id} is not pinned")
    _tell(options, f"step {step} is no longer pinned", {"step": step, "pinned": False})
    return ExitCode.FINISHED


def _prune(target: Target, options: argparse.Namespace) -> ExitCode:
    if not target.configured and not target.overrides:
        raise UsageError(
            f"the run {target.paths.run_id} has no configuration that says what to keep", "say it: retention.last=3"
        )
    with kept_idle(target.paths.locks()):
        if options.dry_run:
            steps = list(review(target.paths.snapshots, target.items(), target.retention).removable)
        else:
            steps = prune(Storage(), target.paths.snapshots, target.retention)
    verb = "would be deleted" if options.dry_run else "deleted"
    listed = f"{verb}: {', '.join(map(str, steps))}" if steps else "retention keeps every snapshot"
    _tell(options, listed, {"removed": steps, "dry_run": options.dry_run})
    return ExitCode.FINISHED


def _named(target: Target) -> Item:
    if not target.step:
        raise UsageError("which snapshot?", "add step=50, step=latest or step=best")
    return target.chosen()


def _tell(options: argparse.Namespace, text: str, body: Mapping[str, Any]) -> None:
    if options.json:
        _print_json(body)
    else:
        print(text)


def _print_json(body: Mapping[str, Any]) -> None:
    print(json.dumps(body, indent=1, allow_nan=False))


# --- the command line

_Command = Callable[[Target, argparse.Namespace], ExitCode]
_ACTIONS: dict[str, tuple[_Command, str]] = {
    "list": (_list, "all snapshots of a run: state, size, age, metrics, and why retention keeps each"),
    "show": (_show_one, "one snapshot in detail (step=latest by default)"),
    "verify": (_verify, "read every byte and compare it with the manifest; exit code 67 if anything differs"),
    "pin": (_pin, "keep a snapshot, whatever retention says"),
    "unpin": (_unpin, "leave a snapshot to retention again"),
    "prune": (_prune, "delete now what retention does not want; not while the run is up"),
}


def add_parsers(commands: Any) -> None:
    """Add ``snapshot`` and ``snapshots`` to the subparsers of the command line."""
    one = commands.add_parser("snapshot", help="ask a run that is up for a durable snapshot, and wait for it")
    one.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait (default 600)")
    _add_common(one, "run=ID, and dir=runs")
    one.set_defaults(handler=ask)
    many = commands.add_parser("snapshots", help="list, verify, pin and prune a run's snapshots")
    actions = many.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (handler, text) in _ACTIONS.items():
        parser = actions.add_parser(name, help=text, description=text)
        _add_common(parser, "run=ID, dir=runs, step=50|latest|best, and retention.…=… to judge by other settings")
        parser.set_defaults(handler=handler)
        if name == "verify":
            parser.add_argument("--quarantine", action="store_true", help="set aside what is corrupt")
        if name == "prune":
            parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def _add_common(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry out one of these commands."""
    target = find_target(options.overrides)
    handler: _Command = options.handler
    return handler(target, options)
