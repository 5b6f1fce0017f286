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
from resilient.snapshot.ends import ends_of_image
from resilient.snapshot.hashing import Checksum, checksum, chunks_of
from resilient.snapshot.manifest import ImageFile, Manifest, bounded
from resilient.snapshot.shards import Whole, distributed_in
from resilient.snapshot.sharing import Base, Sharing
from resilient.snapshot.storage import ASIDE, Storage, Writer

TEMPORARY = ".tmp-"
_RETIRED, _DROPPED = "-retired-", f"{TEMPORARY}dropped-"  # in names of what is being removed
_SPARE_BYTES = 16 << 20  # what a commit leaves free for journals and logs


def _final(_rank: int, _size: int) -> None:
    """All bytes are."""


def _permitted() -> None:
    """Nobody else commits."""


@dataclass(frozen=True)
class Draft:
    """A snapshot about to be committed.

    :param images: by rank, the bytes of each image.
    :param ready: called with a rank and a number of bytes; returns when so many of its image, from the beginning, are
        final, or raises, and then there is no snapshot.
    :param settle: called when all images are written and before they count; returns the metrics, or raises.
    :param term: whose leader commits it, in a run of several nodes.
    :param deduplicate: whether what several ranks have alike is to be stored once.
    :param bases: what else is stored whole, and may have alike what these images have.
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
    term: int = 0
    deduplicate: bool = False
    bases: Sequence[Base] = ()

    def settled(self) -> Mapping[str, float]:
        """The metrics, when all images are final.

        :raises: whatever ``settle`` does.
        """
        return self.metrics if self.settle is None else self.settle()

    @property
    def shares(self) -> bool:
        """Whether there is anything to compare."""
        return self.deduplicate and len(self.images) + len(self.bases) > 1

    @property
    def least_size(self) -> int:
        """Bytes that will be written at the least."""
        sizes = [len(image) for image in self.images.values()]
        return (0 if self.bases else min(sizes, default=0)) if self.shares else sum(sizes)

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
    require_room(storage, directory, draft.least_size)
    identity = uuid.uuid4().hex
    temporary = directory / temporary_name(draft.step, identity)
    storage.make_directory(temporary)
    try:
        manifest = _write(storage, temporary, draft, identity)
    except Exception:  # whatever it is: a commit that is tried again must not leave a copy each time
        with suppress(OSError):
            storage.remove_tree(temporary)
        raise
    publish(storage, directory, temporary, draft.step)
    return manifest


def require_room(storage: Storage, directory: Path, size: int) -> None:
    """Ask before ``size`` bytes are written.

    :raises StorageFull: there is no room for them.
    """
    needed = size + _SPARE_BYTES
    if storage.free_bytes(directory) < needed:
        raise StorageFull(f"{needed} bytes are needed in {directory}, which has less", "free space there")


def temporary_name(step: int, identity: str) -> str:
    """Name of the directory in which a snapshot is written."""
    return f"{TEMPORARY}{names.snapshot_name(step)}-{identity[:8]}"


def _write(storage: Storage, temporary: Path, draft: Draft, identity: str) -> Manifest:
    files = write_images(storage, temporary, draft)
    manifest = describe(draft, identity, files, draft.settled(), distributed_in(draft.images))
    write_manifest(storage, temporary, manifest)
    return manifest


def write_images(storage: Storage, temporary: Path, draft: Draft) -> tuple[ImageFile, ...]:
    """Write the images of ``draft``; each is durable when this returns, but for its name.

    :raises StorageFull: there is no room for all of them.
    """
    sharing = Sharing(draft.images, draft.ready, draft.bases) if draft.shares else None
    return tuple(_write_image(storage, temporary, draft, rank, sharing) for rank in sorted(draft.images))


def describe(
    draft: Draft,
    identity: str,
    files: Sequence[ImageFile],
    metrics: Mapping[str, float],
    tensors: Mapping[str, Whole],
) -> Manifest:
    """The manifest of ``draft``, whose images are written."""
    return Manifest(
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
        tensors=tensors,
        term=draft.term,
    )


def write_manifest(storage: Storage, temporary: Path, manifest: Manifest) -> None:
    """Write it, and make durable that it and the images are there."""
    encoded = memoryview(manifest.to_bytes())
    storage.write(temporary / manifests.NAME, lambda append: append(encoded))
    storage.sync_directory(temporary)


def _write_image(storage: Storage, temporary: Path, draft: Draft, rank: int, sharing: Sharing | None) -> ImageFile:
    name, whole = names.image_name(rank), len(draft.images[rank])
    reduced = sharing.reduced(rank) if sharing is not None else None
    if reduced is None:
        if sharing is not None:
            require_room(storage, temporary, whole)
        sums = _write_file(storage, temporary / name, draft.chunks(rank))
        return ImageFile(name, rank, sums, ends=ends_of_image(draft.images[rank]))
    require_room(storage, temporary, reduced.size)
    sums = _write_file(storage, temporary / name, reduced.chunks())
    storage.spared(max(0, whole - reduced.size))
    return ImageFile(name, rank, sums, reduced.base, whole, reduced.ends)


def _write_file(storage: Storage, path: Path, chunks: Iterator[memoryview]) -> Checksum:
    sums: list[Checksum] = []

    def produce(append: Writer) -> None:
        sums.append(checksum(chunks, append))

    storage.write(path, produce)
    return sums[0]


def publish(
    storage: Storage, directory: Path, temporary: Path, step: int, permit: Callable[[], None] = _permitted
) -> None:
    """Make the whole and durable directory ``temporary`` the snapshot of ``step``.

    :param permit: called right before that and right after it; raises where we may not, and then all is as it was.
    """
    final = directory / names.snapshot_name(step)
    replaced = final.exists()
    swap = storage.exchange if replaced else storage.rename
    permit()
    swap(temporary, final)
    storage.sync_directory(directory)
    try:
        permit()
    except Exception:
        swap(final, temporary)
        storage.sync_directory(directory)
        raise
    settle(storage, directory, final)
    if replaced:
        storage.remove_tree(temporary)


def settle(storage: Storage, directory: Path, final: Path) -> None:
    """``final`` is the snapshot that was committed last."""
    storage.point(directory / "latest", final.name)
    storage.sync_directory(directory)


def retire(storage: Storage, snapshot: Path) -> None:
    """Delete a committed snapshot. It stops being one in a single step, before its files go one by one."""
    doomed = snapshot.with_name(f"{TEMPORARY}{snapshot.name}{_RETIRED}{uuid.uuid4().hex[:8]}")
    storage.rename(snapshot, doomed)
    storage.remove_tree(doomed)


def remove_discarded(storage: Storage, directory: Path) -> list[str]:
    """Delete what rollbacks have set aside; returns the names."""
    found = catalog.discarded(directory)
    for snapshot in found:
        retire(storage, snapshot)
    return [snapshot.name for snapshot in found]


def drop(storage: Storage, temporary: Path) -> bool:
    """Remove a directory in which somebody was, or still is, writing a snapshot. Returns whether it was there.

    It gets another name first: so nobody can make a snapshot of what is half removed.
    """
    doomed = temporary.with_name(f"{_DROPPED}{uuid.uuid4().hex[:8]}")
    try:
        storage.rename(temporary, doomed)
    except FileNotFoundError:
        return False
    storage.remove_tree(doomed)
    return True


def remove_doomed(storage: Storage, directory: Path) -> None:
    """Remove what somebody was killed over removing. Others may be at it at the same time, or write snapshots."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith(_DROPPED) or (path.name.startswith(TEMPORARY) and _RETIRED in path.name):
            storage.remove_tree(path)


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
            drop(storage, path)
    return leftovers
