"""Commands that ask for snapshots, keep them or let them go: ``snapshot``, ``pin``, ``unpin`` and ``prune``."""

from __future__ import annotations

import argparse
import functools
import sys

from resilient.errors import ExitCode, SnapshotCorrupt, SnapshotNotFound, UsageError
from resilient.protocol.lock import kept_idle
from resilient.snapshot import catalog, pins
from resilient.snapshot.commit import remove_discarded
from resilient.snapshot.inventory import State
from resilient.snapshot.prune import prune as prune_directory
from resilient.snapshot.prune import review
from resilient.snapshot.storage import Storage
from resilient.snapshots_cli.output import tell
from resilient.snapshots_cli.target import Target
from resilient.supervisor.request import wait_for_snapshot


def ask(target: Target, options: argparse.Namespace) -> ExitCode:
    """Ask a run that is up for a durable snapshot and wait for it."""
    manifest = wait_for_snapshot(target.paths, target.memory_dir, options.timeout)
    body = {"run": target.paths.run_id, "step": manifest.step, "identity": manifest.identity}
    tell(options, f"step {manifest.step} is durable in {target.paths.snapshot(manifest.step)}", body)
    return ExitCode.FINISHED


def pin(target: Target, options: argparse.Namespace) -> ExitCode:
    """Keep a snapshot whatever retention says, in every tier."""
    item = target.named()
    if item.state is State.CORRUPT:
        raise SnapshotCorrupt(f"step {item.step} cannot be pinned: {item.problem}")
    pins.pin(Storage(), target.paths.snapshots, item.step)
    tell(options, f"step {item.step} is pinned", {"step": item.step, "pinned": True})
    return ExitCode.FINISHED


def unpin(target: Target, options: argparse.Namespace) -> ExitCode:
    """Leave a snapshot to retention again."""
    # a pin may have outlived its snapshot, so a number is taken as it is
    step = int(target.step) if target.step.isdecimal() else target.named().step
    was_pinned = pins.unpin(Storage(), target.paths.snapshots, step)
    if not was_pinned:
        raise SnapshotNotFound(f"step {step} of {target.paths.run_id} is not pinned")
    tell(options, f"step {step} is no longer pinned", {"step": step, "pinned": False})
    return ExitCode.FINISHED


def prune(target: Target, options: argparse.Namespace) -> ExitCode:
    """Delete now what retention does not want, on this machine or in the remote tier."""
    if not target.configured and not target.overrides:
        raise UsageError(
            f"the run {target.paths.run_id} has no configuration that says what to keep", "say it: retention.last=3"
        )
    standing = target.standing()
    if standing.problem:
        print(f"resilient: WARNING: every snapshot is kept: {standing.problem}", file=sys.stderr)
    with kept_idle(target.paths.locks()):
        steps = _prune_remote(target, options) if target.tier == "remote" else _prune_local(target, options)
        discarded = _prune_discarded(target, options) if options.discarded else []
    verb = "would be deleted" if options.dry_run else "deleted"
    gone = [*map(str, steps), *discarded]
    listed = f"{verb}: {', '.join(gone)}" if gone else "retention keeps every snapshot"
    tell(options, listed, {"removed": steps, "discarded": discarded, "dry_run": options.dry_run})
    return ExitCode.FINISHED


def _prune_local(target: Target, options: argparse.Namespace) -> list[int]:
    if options.dry_run:
        found = review(target.paths.snapshots, target.items(), target.retention, margin=target.margin)
        return list(found.removable)
    return prune_directory(Storage(), target.paths.snapshots, target.retention, margin=target.margin)


def _prune_discarded(target: Target, options: argparse.Namespace) -> list[str]:
    """What rollbacks have set aside; returns the names."""
    if not options.dry_run:
        return remove_discarded(Storage(), target.paths.snapshots)
    return [path.name for path in catalog.discarded(target.paths.snapshots)]


def _prune_remote(target: Target, options: argparse.Namespace) -> list[int]:
    """By the rules of ``remote.retention``; pins are those of this machine."""
    tier, settings = target.remote_tier(), target.remote.retention
    if options.dry_run:
        items = tier.items()
        pinned = [item.step for item in items if pins.is_pinned(target.paths.snapshots, item.step)]
        found = tier.review(items, settings, pinned, standing=target.known_standing(), margin=target.margin)
        return list(found.removable)
    is_pinned = functools.partial(pins.is_pinned, target.paths.snapshots)
    return tier.prune(settings, is_pinned, standing=target.known_standing(), margin=target.margin)
