"""The command ``export``: a snapshot, or one object of it, out of its run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from resilient.convert.command import ended_by_signals
from resilient.errors import ExitCode, NoLoadableSnapshot, RemoteUnavailable, SnapshotCorrupt, UsageError
from resilient.protocol.names import snapshot_name
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
    if options.to:
        return _from_nearest(target, lambda copy: _convert(copy, place, name, options))
    if options.dtype or options.shard_size or options.hf_config:
        raise UsageError("--dtype, --shard-size and --hf-config need a format", "add --to hf, or another one")
    if name and place.suffix != ".safetensors":
        raise UsageError(f"object={name} goes into a file", f"write to={place}.safetensors")
    return _from_nearest(target, lambda copy: _write(copy, place, name or "model", options))


def _from_nearest(target: Target, write: Callable[[Copy], ExitCode]) -> ExitCode:
    problems = []
    for copy in _copies(target):
        try:
            return write(copy)
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


def _convert(copy: Copy, place: Path, name: str, options: argparse.Namespace) -> ExitCode:
    from resilient.convert.request import Request, carry_out  # noqa: PLC0415  imports torch

    if options.force:
        raise UsageError("--force replaces nothing that is written in another format", "choose a place that is free")
    how = {"to": options.to, "only": name, "dtype": options.dtype, "shard_size": options.shard_size}
    with ended_by_signals(), _on_disk(copy, place) as path:
        done = carry_out(Request(path, place, **how, hf_config=options.hf_config), quiet=options.json)
    notes = "".join(f"\nnote: {note}" for note in done.notes)
    text = f"step {copy.manifest.step}: {done.tensors} tensors, {done.size} bytes, in {place} ({done.form}){notes}"
    body = {"identity": copy.manifest.identity, "source": copy.place, "path": str(place), "object": name or None}
    tell(options, text, {**body, **done.to_json(), "step": copy.manifest.step})
    return ExitCode.FINISHED


@contextmanager
def _on_disk(copy: Copy, place: Path) -> Iterator[Path]:
    """The snapshot on this machine; one from elsewhere is fetched beside the target, and goes again."""
    if isinstance(copy, LocalCopy):
        yield Path(copy.place)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.fetched-") as folder:
        fetched = Path(folder, snapshot_name(copy.manifest.step))
        export_snapshot(copy, fetched)
        yield fetched


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
