"""Commit: how images become a snapshot that survives a power cut.

Temporary directory → images written and fsynced → manifest written and fsynced → directory fsynced → directory
renamed → parent fsynced → ``latest`` moved. A crash anywhere leaves either the whole snapshot or a temporary
directory that is never looked at and is removed at the next start. Nothing older is deleted before all of this is done.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.errors import StorageFull
from resilient.protocol import names
from resilient.snapshot import catalog
from resilient.snapshot import manifest as manifests
from resilient.snapshot.hashing import Checksum, checksum, chunks_of
from resilient.snapshot.manifest import ImageFile, Manifest, bounded
from resilient.snapshot.shards import distributed_in
from resilient.snapshot.storage import ASIDE, Storage, Writer

TEMPORARY = ".tmp-"
_SPARE_BYTES = 16 << 20  # what a commit leaves free for journals and logs


def _final(_rank: int, _size: int) -> None:
    """All bytes are."""


@dataclass(frozen=True)
class Draft:
    """A snapshot about to be committed.

    :param images: by rank, the bytes of each image.
    :param ready: called with a rank and a number of bytes; returns when so many of its image, from the beginning, are
        final, or raises, and then there is no snapshot.
    :param settle: called when all images are written and before they count; returns the metrics, or raises.
    """

    run_id: str
    step: int
    round: int
    images: Mapping[int, memoryview]
    parent: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    divergence: Mapping[str, Any] = field(default_factory=dict)
    ready: Callable[[int, int], None] = _final
    settle: Callable[[], Mapping[str, float]] | None = None

    def chunks(self, rank: int) -> Iterator[memoryview]:
        """The image of ``rank``, each chunk when it is final."""
        reached = 0
        for chunk in chunks_of(self.images[rank]):
            reached += len(chunk)
            self.ready(rank, reached)
            yield chunk


def commit(storage: Storage, directory: Path, draft: Draft) -> Manifest:
    """Make ``draft`` a snapshot in ``directory``, durable when this returns.

    A snapshot of the same step that is already there is replaced, in one step.

    :raises StorageFull: there is no room; what was written is removed again.
    """
    needed = sum(len(image) for image in draft.images.values()) + _SPARE_BYTES
    if storage.free_bytes(directory) < needed:
        raise StorageFull(f"{needed} bytes are needed in {directory}, which has less", "free space there")
    identity = uuid.uuid4().hex
    temporary = directory / f"{TEMPORARY}{names.snapshot_name(draft.step)}-{identity[:8]}"
    storage.make_directory(temporary)
    try:
        manifest = _write(storage, temporary, draft, identity)
    except Exception:  # whatever it is: a commit that is tried again must not leave a copy each time
        with suppress(OSError):
            storage.remove_tree(temporary)
        raise
    _publish(storage, directory, temporary, draft.step)
    return manifest


def _write(storage: Storage, temporary: Path, draft: Draft, identity: str) -> Manifest:
    files = [
        ImageFile(names.image_name(rank), rank, _write_image(storage, temporary / names.image_name(rank), draft, rank))
        for rank in sorted(draft.images)
    ]
    metrics = draft.metrics if draft.settle is None else draft.settle()
    manifest = Manifest(
        run_id=draft.run_id,
        step=draft.step,
        round=draft.round,
        world_size=len(files),
        identity=identity,
        parent=draft.parent,
        created=time.time(),
        files=tuple(files),
        metrics=metrics,
        versions={"python": platform.python_version(), **draft.versions},
        durations=draft.durations,
        divergence=bounded(draft.divergence),
        tensors=distributed_in(draft.images),
    )
    encoded = memoryview(manifest.to_bytes())
    storage.write(temporary / manifests.NAME, lambda append: append(encoded))
    storage.sync_directory(temporary)
    return manifest


def _write_image(storage: Storage, path: Path, draft: Draft, rank: int) -> Checksum:
    sums: list[Checksum] = []

    def produce(append: Writer) -> None:
        sums.append(checksum(draft.chunks(rank), append))

    storage.write(path, produce)
    return sums[0]


def _publish(storage: Storage, directory: Path, temporary: Path, step: int) -> None:
    final = directory / names.snapshot_name(step)
    replaced = final.exists()
    if replaced:
        storage.exchange(temporary, final)
    else:
        storage.rename(temporary, final)
    storage.sync_directory(directory)
    storage.point(directory / "latest", final.name)
    storage.sync_directory(directory)
    if replaced:
        storage.remove_tree(temporary)


def retire(storage: Storage, snapshot: Path) -> None:
    """Delete a committed snapshot. It stops being one in a single step, before its files go one by one."""
    doomed = snapshot.with_name(f"{TEMPORARY}{snapshot.name}-retired-{uuid.uuid4().hex[:8]}")
    storage.rename(snapshot, doomed)
    storage.remove_tree(doomed)


def remove_discarded(storage: Storage, directory: Path) -> list[str]:
    """Delete what rollbacks have set aside; returns the names."""
    found = catalog.discarded(directory)
    for snapshot in found:
        retire(storage, snapshot)
    return [snapshot.name for snapshot in found]


def remove_leftovers(storage: Storage, directory: Path) -> Sequence[Path]:
    """Remove what commits that were cut short have left. Call only while no commit can be under way."""
    for link in directory.glob(".latest.*"):
        link.unlink()
    leftovers = sorted(path for path in directory.iterdir() if path.name.startswith(TEMPORARY))
    for path in leftovers:
        name = "-".join(path.name.removeprefix(TEMPORARY).split("-")[:2])
        if path.name.endswith(ASIDE) and not (directory / name).exists():
            storage.rename(path, directory / name)  # whole and durable: only the last step of a swap was missing
        else:
            storage.remove_tree(path)
    return leftovers
