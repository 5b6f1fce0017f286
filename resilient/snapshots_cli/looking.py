"""Commands that look: ``list``, ``show`` and ``verify``."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from typing import Any

from resilient.errors import ExitCode, RemoteUnavailable, ResilientError, SnapshotCorrupt, SnapshotNotFound
from resilient.protocol.lock import kept_idle
from resilient.report.snapshots import RemoteView, as_json, render
from resilient.snapshot import catalog, copies
from resilient.snapshot.inventory import Item
from resilient.snapshot.prune import review
from resilient.snapshot.remote import RemoteItem, RemoteTier
from resilient.snapshot.storage import Storage
from resilient.snapshots_cli.output import print_json
from resilient.snapshots_cli.target import Target, everywhere


def list_all(target: Target, options: argparse.Namespace) -> ExitCode:
    """All snapshots of a run, in all tiers that can be reached."""
    return _show(target, options, None)


def show_one(target: Target, options: argparse.Namespace) -> ExitCode:
    """All that is known of one snapshot."""
    return _show(target, options, "latest")


def _show(target: Target, options: argparse.Namespace, default: str | None) -> ExitCode:
    items, standing = target.items(discarded=True), target.standing()
    view, problem = _remote_view(target, options)
    verdict = review(target.paths.snapshots, items, target.retention, standing=standing, margin=target.margin)
    rows = as_json(items, verdict, now=time.time(), remote=view, standing=standing)
    if default is not None:
        step = target.chosen_step(everywhere(items, view.items if view else ()), [row["step"] for row in rows], default)
        rows = sorted((row for row in rows if row["step"] == step), key=lambda row: bool(row["problem"]))[:1]
    for text in filter(None, (standing.problem, problem and f"only what is on this machine is shown: {problem}")):
        print(f"resilient: WARNING: {text}", file=sys.stderr)
    fork = standing.lineage.forked_from
    if options.json:
        body = {"run": target.paths.run_id, "forked_from": fork.to_json() if fork is not None else None}
        print_json({**body, "snapshots": rows, **({"remote_problem": problem} if problem else {})})
        return ExitCode.FINISHED
    if fork is not None:
        print(f"forked from step {fork.step} of the run {fork.run}, snapshot {fork.identity[:8]}")
    shown = rows if default is not None or options.all else [row for row in rows if row["state"] != "discarded"]
    render(shown, sys.stdout, detailed=default is not None)
    if hidden := len(rows) - len(shown):
        print(f"and {hidden} that a rollback has discarded, shown with --all")
    return ExitCode.FINISHED


def _remote_view(target: Target, options: argparse.Namespace) -> tuple[RemoteView | None, str]:
    """What lies in the remote tier, if the run has one and it is wanted; and why it cannot be said."""
    if options.local or target.tier == "local" or not target.remote.enabled:
        return None, ""
    try:
        tier = target.remote_tier()
        items = tier.items()
        settings = target.remote.retention
        verdict = tier.review(items, settings, standing=target.known_standing(), margin=target.margin)
        place = f"{target.remote.url.rstrip('/')}/{target.paths.run_id}"
        return RemoteView(place, items, verdict), ""
    except ResilientError as error:
        if not isinstance(error, RemoteUnavailable) or not target.paths.snapshots.is_dir():
            raise
        return None, error.problem


def verify(target: Target, options: argparse.Namespace) -> ExitCode:
    """Read every byte. One snapshot when a step is given, otherwise all that have not been set aside."""
    if target.tier == "remote":
        return _verify_remote(target, options)
    items = [target.chosen()] if target.step else [item for item in target.items() if not item.quarantined]
    with ExitStack() as stack:
        if options.quarantine:
            stack.enter_context(kept_idle(target.paths.locks()))
        checked = [_verified(item, quarantine=options.quarantine) for item in items]
    results = [result for result in checked if result is not None]
    if target.step and not results:
        raise SnapshotNotFound(f"the snapshot of step {items[0].step} was deleted while it was being read")
    return _report(target, options, results)


def _verify_remote(target: Target, options: argparse.Namespace) -> ExitCode:
    tier = target.remote_tier()
    items = tier.items()
    if target.step:
        step = target.chosen_step(everywhere((), items), [item.step for item in items])
        items = tuple(item for item in items if item.step == step)
    else:
        items = tuple(item for item in items if not item.marked)
    return _report(target, options, [_verified_remotely(tier, item, mark=options.quarantine) for item in items])


def _report(target: Target, options: argparse.Namespace, results: list[dict[str, Any]]) -> ExitCode:
    if options.json:
        print_json({"run": target.paths.run_id, "snapshots": results})
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


def _verified_remotely(tier: RemoteTier, item: RemoteItem, *, mark: bool) -> dict[str, Any]:
    problem, kept_as = item.problem, ""
    try:
        copies.verify(tier.copy(item))
    except SnapshotCorrupt as error:
        problem = error.problem
        if mark and not item.marked and tier.mark(item, problem):
            kept_as = f"{item.name} with a mark"
    return {"step": item.step, "ok": not problem, "problem": problem, "quarantined_as": kept_as}
