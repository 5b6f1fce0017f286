"""Making a fork: the new run's directory appears whole, with the snapshot and the lineage in it, or not at all."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from resilient.errors import (
    ConfigurationError,
    LineageUnreadable,
    RunDirectoryNotWritable,
    SnapshotNotFound,
    StorageFull,
)
from resilient.fork.source import Origin, Source, find, read_origin, require_another_run
from resilient.protocol.append import NO_ROOM
from resilient.protocol.lineage_file import read_lineage, write_lineage
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot import catalog
from resilient.snapshot import manifest as manifests
from resilient.snapshot.manifest import Manifest, bounded
from resilient.snapshot.storage import Storage

_TEMPORARY = ".fork-"


def begin(text: str, paths: RunPaths, ranks: int, own: Callable[[], str]) -> str:
    """Make the run in ``paths`` a fork of the snapshot that ``from=`` names, unless it is one already.

    :param ranks: of the new run.
    :param own: the run that is meant where only a step is written.
    :returns: a sentence for the user.
    :raises UsageError: ``text`` makes no sense.
    :raises ConfigurationError: the run would be its own fork, is there already and something else, or has another
        number of ranks than the snapshot.
    :raises SnapshotNotFound: there is no such snapshot; SnapshotCorrupt where it fails verification.
    :raises RunDirectoryNotWritable: the run cannot be made; StorageFull where there is no room for it.
    """
    origin = read_origin(text, paths.root.parent, own)
    require_another_run(origin, paths)
    if _has_begun(paths):
        return _resumed(origin, paths, text)
    source = find(origin)
    if source.manifest.world_size != ranks:
        raise ConfigurationError(
            f"worker.ranks is {ranks}, but the snapshot of step {source.manifest.step} is that of "
            f"{source.manifest.world_size}",
            f"set worker.ranks={source.manifest.world_size}",
        )
    if _make(paths, source):
        return f"forked from step {source.manifest.step} of the run {source.run}"
    return _resumed(origin, paths, text)  # another one was quicker


def _has_begun(paths: RunPaths) -> bool:
    return paths.root.is_dir() and any(paths.root.iterdir())


def _resumed(origin: Origin, paths: RunPaths, text: str) -> str:
    try:
        fork = read_lineage(paths).forked_from
    except (ValueError, OSError) as error:
        raise LineageUnreadable(f"{paths.lineage} cannot be read: {error}", "restore the file if you can") from error
    if fork is not None and origin.may_mean(fork):
        return f"goes on with what was forked from step {fork.step} of the run {fork.run}"
    began = f"began with step {fork.step} of {fork.run}" if fork is not None else "is there already and is no fork"
    raise ConfigurationError(
        f"from={text}: the run {paths.run_id} {began}",
        "choose another run.id for the fork, or leave out from= to go on with that run",
    )


def _make(paths: RunPaths, source: Source) -> bool:
    """Returns False if the run has come to be meanwhile."""
    _remove_leftovers(paths)
    temporary = RunPaths(paths.root.with_name(f"{_TEMPORARY}{paths.run_id}.{hostname()}.{os.getpid()}"))
    try:
        paths.root.parent.mkdir(parents=True, exist_ok=True)
        temporary.create()
        _fill(temporary, paths.run_id, source)
        temporary.root.rename(paths.root)
        Storage().sync_directory(paths.root.parent)
    except OSError as error:
        if _has_begun(paths):
            return False
        raise _explained(error, paths) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary.root)
    return True


def _explained(error: OSError, paths: RunPaths) -> Exception:
    if error.errno in NO_ROOM:
        return StorageFull(f"there is no room for the fork in {paths.root.parent}", "free space there")
    return RunDirectoryNotWritable(f"{paths.root} cannot be made: {error.strerror}", "check its permissions")


def _fill(run: RunPaths, run_id: str, source: Source) -> None:
    storage, snapshot = Storage(), run.snapshot(source.manifest.step)
    storage.make_directory(snapshot)
    copied = False
    for file in source.manifest.files:
        copied |= not _linked(source.path / file.name, snapshot / file.name)
    manifest = _manifest_of(source, run_id)
    encoded = memoryview(manifest.to_bytes())
    storage.write(snapshot / manifests.NAME, lambda append: append(encoded))
    if copied:
        catalog.verify(snapshot)
    storage.sync_directory(snapshot)
    storage.point(run.latest, snapshot.name)
    storage.sync_directory(run.snapshots)
    write_lineage(run, source.lineage)


def _linked(source: Path, target: Path) -> bool:
    """Whether the image could be had without a copy; otherwise it is copied, durably."""
    try:
        target.hardlink_to(source)
    except FileNotFoundError as error:
        raise SnapshotNotFound(
            f"{source.parent} was deleted while it was forked", "pin it first: resilient snapshots pin run=… step=…"
        ) from error
    except OSError:  # another filesystem, or one without links
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        return False
    return True


def _manifest_of(source: Source, run_id: str) -> Manifest:
    """The snapshot's manifest as that of the fork's first snapshot: no round of the fork has taken it."""
    divergence = {**source.manifest.divergence, "lineage": source.lineage.to_json()}
    return replace(
        source.manifest,
        run_id=run_id,
        round=0,
        identity=uuid.uuid4().hex,
        parent=source.manifest.identity,
        created=time.time(),
        divergence=bounded(divergence),
    )


def _remove_leftovers(paths: RunPaths) -> None:
    """What a fork of this name, on this machine, has left that was cut short."""
    for path in paths.root.parent.glob(f"{_TEMPORARY}{paths.run_id}.{hostname()}.*"):
        number = path.name.rpartition(".")[2]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(path, ignore_errors=True)
