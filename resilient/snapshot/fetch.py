"""Copies of whole snapshots, written as they are; and one from another tier that becomes a snapshot here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resilient.snapshot.commit import publish, require_room, temporary_name, write_manifest
from resilient.snapshot.copies import Copy, read_chunks
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.storage import Storage, Writer


def write_copy(storage: Storage, directory: Path, copy: Copy) -> None:
    """Make ``directory``, with the images and the manifest of ``copy``; every byte is verified on its way.

    :raises SnapshotCorrupt: the copy fails verification; what was written stays.
    """
    storage.make_directory(directory)
    for file in copy.manifest.files:
        storage.write(directory / file.name, _verified(copy, file))
    write_manifest(storage, directory, copy.manifest)


def _verified(copy: Copy, file: ImageFile) -> Callable[[Writer], None]:
    def produce(append: Writer) -> None:
        for _, chunk in read_chunks(copy, file):
            append(chunk)

    return produce


def fetch(storage: Storage, snapshots: Path, copy: Copy) -> None:
    """Make ``copy`` a snapshot in ``snapshots``, durable when this returns. Its identity stays what it is. One of the
    same step that is already there is replaced, in one step.

    :raises StorageFull: there is no room; what was written is removed again.
    :raises SnapshotCorrupt: the copy fails verification; likewise.
    """
    manifest = copy.manifest
    require_room(storage, snapshots, manifest.size)
    temporary = snapshots / temporary_name(manifest.step, manifest.identity)
    try:
        write_copy(storage, temporary, copy)
    except Exception:
        with suppress(OSError):
            storage.remove_tree(temporary)
        raise
    publish(storage, snapshots, temporary, manifest.step)
