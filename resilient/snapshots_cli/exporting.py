"""The command ``export``: a snapshot, or one object of it, out of its run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from resilient.errors import ExitCode, NoLoadableSnapshot, RemoteUnavailable, SnapshotCorrupt, UsageError
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.export import export_object, export_snapshot
from resilient.snapshot.inventory import Item
from resilient.snapshot.remote import RemoteItem, RemoteTier, current
from resilient.snapshots_cli.output import tell
from resilient.snapshots_cli.target import Target, everywhere


def export(target: Target, options: argparse.Namespace) -> ExitCode:
    """Write it from the nearest copy that verifies."""
    if not target.given.get("to"):
        raise UsageError("to=PATH is needed", "name a directory for the whole snapshot, or a file FILE.safetensors")
    place, name = Path(target.given["to"]), target.given.get("object", "")
    if name and place.suffix != ".safetensors":
        raise UsageError(f"object={name} goes into a file", f"write to={place}.safetensors")
    problems = []
    for copy in _copies(target):
        try:
            return _write(copy, place, name or "model", options)
        except SnapshotCorrupt as error:
            problems.append(f"{copy.place}: {error.problem}")
            print(f"resilient: WARNING: {problems[-1]}; trying another copy", file=sys.stderr)
    raise NoLoadableSnapshot(
        f"no copy of that snapshot can be read: {'; '.join(problems) or 'there is none'}",
        "export another step; resilient snapshots list shows those there are",
    )


def _write(copy: Copy, place: Path, name: str, options: argparse.Namespace) -> ExitCode:
    body = {"step": copy.manifest.step, "identity": copy.manifest.identity, "source": copy.place, "path": str(place)}
    if place.suffix == ".safetensors":
        done = export_object(copy, name, place, replace=options.force)
        text = f"step {copy.manifest.step}: {len(done.tensors)} tensors of {name}, {done.bytes} bytes, in {place}"
        tell(options, text, {**body, "object": name, "bytes": done.bytes, "tensors": len(done.tensors)})
    else:
        size = export_snapshot(copy, place, replace=options.force)
        tell(options, f"step {copy.manifest.step}: {size} bytes in {place}", {**body, "object": None, "bytes": size})
    return ExitCode.FINISHED


def _copies(target: Target) -> Iterator[Copy]:
    """Copies of the snapshot that is meant, the nearest first. The network is asked only if it is needed."""
    items = target.items() if target.tier != "remote" else ()
    tier: RemoteTier | None = None
    there: tuple[RemoteItem, ...] = ()
    if target.tier == "remote" or (not _is_here(target, items) and target.remote.enabled):
        tier = target.remote_tier()
        there = _listed(tier, required=target.tier == "remote" or not items)
    steps = [item.step for item in items] + [item.step for item in there]
    step = target.chosen_step(everywhere(items, there), steps, "latest")
    for item in items:
        if item.step == step and item.manifest is not None and not item.quarantined:
            yield LocalCopy(item.path)
    if target.tier == "local" or not target.remote.enabled:
        return
    tier = tier or target.remote_tier()
    found = current(there or _listed(tier, required=True)).get(step)
    if found is not None:
        yield tier.copy(found)


def _is_here(target: Target, items: tuple[Item, ...]) -> bool:
    """Whether the snapshot that is meant is surely one on this machine: only a number says which."""
    return target.step.isdecimal() and int(target.step) in {item.step for item in items}


def _listed(tier: RemoteTier, *, required: bool) -> tuple[RemoteItem, ...]:
    try:
        return tier.items()
    except RemoteUnavailable as error:
        if required:
            raise
        print(f"resilient: WARNING: only what is on this machine is considered: {error.problem}", file=sys.stderr)
        return ()
