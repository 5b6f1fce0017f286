"""Pins: snapshots that a person wants to keep, as empty files ``pins/step-…`` beside the snapshots.

They are not inside the snapshot, whose directory is verified as it was committed, and they outlive it: a pinned step
that is quarantined and then trained again is still pinned.
"""

from __future__ import annotations

from pathlib import Path

from resilient.errors import SnapshotNotFound
from resilient.protocol import names
from resilient.snapshot import manifest as manifests
from resilient.snapshot.storage import Storage

DIRECTORY = "pins"


def is_pinned(snapshots: Path, step: int) -> bool:
    return _mark(snapshots, step).exists()


def pin(storage: Storage, snapshots: Path, step: int) -> None:
    """Keep the snapshot of ``step`` from now on, durable when this returns.

    The snapshot is looked for after the pin is there: retention looks for pins right before it deletes, so of the two
    one sees the other.

    :raises SnapshotNotFound: there is no such snapshot.
    """
    mark = _mark(snapshots, step)
    known = mark.exists()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    storage.sync_directory(mark.parent)
    storage.sync_directory(snapshots)
    if not (snapshots / names.snapshot_name(step) / manifests.NAME).is_file():
        if not known:
            mark.unlink(missing_ok=True)
        raise SnapshotNotFound(f"there is no snapshot of step {step} to pin", "see: resilient snapshots list run=…")


def unpin(storage: Storage, snapshots: Path, step: int) -> bool:
    """Leave the snapshot of ``step`` to retention again. Returns whether it was pinned."""
    try:
        _mark(snapshots, step).unlink()
    except FileNotFoundError:
        return False
    storage.sync_directory(snapshots / DIRECTORY)
    return True


def _mark(snapshots: Path, step: int) -> Path:
    return snapshots / DIRECTORY / names.snapshot_name(step)
