"""The catalog: which snapshots exist in a directory, and loading them with nothing taken on trust.

The directory itself is the list; there is no index that could disagree with it after a crash.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

import xxhash

from resilient.errors import SnapshotCorrupt
from resilient.policy.lineage import Lineage
from resilient.protocol import names
from resilient.protocol.append import AWAY
from resilient.snapshot import manifest as manifests
from resilient.snapshot.direct import open_direct, read_exactly
from resilient.snapshot.fencing import Terms
from resilient.snapshot.hashing import CHUNK, checksum
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.memory import memory_for_disk
from resilient.snapshot.side_by_side import STREAMS, side_by_side
from resilient.snapshot.storage import Storage

CORRUPT = ".corrupt"
DISCARDED = ".discarded-"
"""Before the number of the rollback that a snapshot was set aside for."""
OF_TERM = "term"
"""Between that and the number of a term: nobody has gone on from that snapshot, for its leader was not the leader."""

_PIECE = 8 << 20  # bytes: what some streams have in hand fits into a processor's cache

Put = Callable[[int, memoryview], object]
"""Takes a piece of a file, and the byte at which it begins."""
Buffers = SimpleQueue[memoryview]

_OF_THE_MOMENT = AWAY | {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""Why a file cannot be read that may be sound; a bad sector (``EIO``) is not among them."""


def committed_steps(directory: Path) -> tuple[int, ...]:
    """Steps of all committed snapshots, ascending. A directory without a manifest is not a snapshot, whatever its
    number, nor is what a leader has committed after its time.
    """
    steps, terms = _present(directory), Terms.read(directory)
    return tuple(step for step in steps if _counts(directory, step, terms))


def _present(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    steps = (names.snapshot_step(path.name) for path in directory.iterdir() if (path / manifests.NAME).is_file())
    return sorted(step for step in steps if step is not None)


def _counts(directory: Path, step: int, terms: Terms) -> bool:
    """One whose manifest cannot be read does: whoever loads it will find it corrupt."""
    if terms.all_count_to is None or step <= terms.all_count_to:
        return True  # and nothing need be read
    try:
        return terms.count(step, _term_of(directory / names.snapshot_name(step)))
    except (SnapshotCorrupt, OSError):
        return True


def _term_of(snapshot: Path) -> int:
    stats = (snapshot / manifests.NAME).stat()
    return _read_term(snapshot, stats.st_ino, stats.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _read_term(snapshot: Path, _inode: int, _modified: int) -> int:
    return read_manifest(snapshot).term


def set_aside_late(storage: Storage, directory: Path) -> list[int]:
    """Rename the snapshots that leaders have committed after their time, each to ``step-….discarded-termT`` with the
    number of that term. Returns their steps.
    """
    on = committed_steps(directory)
    late = [step for step in _present(directory) if step not in on]
    for step in late:
        snapshot = directory / names.snapshot_name(step)
        _rename_aside(storage, snapshot, f"{DISCARDED}{OF_TERM}{_term_of(snapshot)}")
    if late:
        _point_at_last(storage, directory, on)
    return late


def read_manifest(snapshot: Path) -> Manifest:
    """The validated manifest of a snapshot directory.

    :raises SnapshotCorrupt: it is missing, damaged, or contradicts the directory's name.
    """
    try:
        manifest = Manifest.from_bytes((snapshot / manifests.NAME).read_bytes())
    except OSError as error:
        raise SnapshotCorrupt(f"{snapshot.name}: the manifest cannot be read: {error.strerror}") from error
    except SnapshotCorrupt as error:
        raise SnapshotCorrupt(f"{snapshot.name}: {error.problem}") from error
    if names.snapshot_step(snapshot.name) not in (None, manifest.step):
        raise SnapshotCorrupt(f"{snapshot.name}: the manifest is that of step {manifest.step}")
    return manifest


def read_image(snapshot: Path, file: ImageFile, into: memoryview) -> None:
    """Read one image into memory of exactly its size, as :func:`read_files` does."""
    read_files(snapshot, [(file, into)])


def read_files(snapshot: Path, wanted: Sequence[tuple[ImageFile, memoryview | Put]]) -> None:
    """Read whole files, several chunks at the same time, verifying every chunk on the way.

    :param wanted: with each, memory of exactly its size, or what takes it piece by piece in any order. What that has
        been given is not verified before this returns.
    :raises SnapshotCorrupt: a file is missing, has another size, or a chunk fails its checksum.
    """
    paths = [require_size(snapshot, file) for file, _ in wanted]
    largest = max((file.checksum.size for file, _ in wanted), default=0)
    buffers: Buffers = SimpleQueue()
    for _ in range(STREAMS):
        buffers.put(memory_for_disk(min(_PIECE, largest)))
    side_by_side(
        functools.partial(_read_chunk, path, file, number, into, buffers)
        for path, (file, into) in zip(paths, wanted, strict=True)
        for number in range(len(file.checksum.chunks))
    )


def _read_chunk(path: Path, file: ImageFile, number: int, into: memoryview | Put, buffers: Buffers) -> None:
    """Read and verify one chunk, in pieces that are still in the processor's cache when they are hashed and handed on.

    Each chunk has a descriptor of its own, for one that has to do without ``O_DIRECT`` is changed for all who use it.
    """
    begin, found = number * CHUNK, xxhash.xxh3_128()
    end = min(begin + CHUNK, file.checksum.size)
    buffer = buffers.get()
    with ExitStack() as stack:
        stack.callback(buffers.put, buffer)
        with _said_to_be_corrupt(path):
            descriptor = open_direct(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        for at in range(begin, end, _PIECE):
            size = min(_PIECE, end - at)
            piece = into[at : at + size] if isinstance(into, memoryview) else buffer[:size]
            with _said_to_be_corrupt(path):
                read_exactly(descriptor, piece, at)
            found.update(piece)
            if not isinstance(into, memoryview):
                into(at, piece)
    if found.hexdigest() != file.checksum.chunks[number]:
        raise _mismatch(path, file, number)


@contextmanager
def _said_to_be_corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotCorrupt(f"{path.parent.name}/{path.name} cannot be read: {error.strerror}") from error
    except EOFError as error:
        raise SnapshotCorrupt(f"{path.parent.name}/{path.name} ended early") from error


def require_size(snapshot: Path, file: ImageFile) -> Path:
    """The path of an image whose file is as long as its manifest says. Ask before memory is reserved for it.

    :raises SnapshotCorrupt: the file is missing, or has another size.
    """
    path = snapshot / file.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SnapshotCorrupt(f"{snapshot.name}/{file.name} cannot be read: {error.strerror}") from error
    if size != file.checksum.size:
        raise SnapshotCorrupt(f"{snapshot.name}/{file.name} has {size} bytes, the manifest says {file.checksum.size}")
    return path


def _mismatch(path: Path, file: ImageFile, chunk: int) -> SnapshotCorrupt:
    begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, file.checksum.size)
    return SnapshotCorrupt(f"{path.parent.name}/{file.name}: checksum mismatch in bytes {begin} to {end}")


def verify(snapshot: Path, *, cached: bool = False) -> Manifest:
    """Read everything and compare every checksum, with one chunk of memory.

    :param cached: through the page cache, for whoever is about to read it too.
    :raises SnapshotCorrupt: naming the file and the place.
    """
    manifest = read_manifest(snapshot)
    for file in manifest.files:
        path = require_size(snapshot, file)
        with _said_to_be_corrupt(path):
            found = checksum(_read_chunks(path, file.checksum.size, cached=cached))
        for number, (chunk, expected) in enumerate(zip(found.chunks, file.checksum.chunks, strict=True)):
            if chunk != expected:
                raise _mismatch(path, file, number)
        if found != file.checksum:
            raise SnapshotCorrupt(f"{snapshot.name}/{file.name}: checksum mismatch")
    return manifest


def steps_on(directory: Path, lineage: Lineage) -> tuple[int, ...]:
    """Steps of the committed snapshots on the lineage, ascending. One whose round cannot be read counts as one of them:
    whoever loads it will find it corrupt.
    """
    return tuple(step for step in committed_steps(directory) if _is_on(directory, step, lineage))


def _is_on(directory: Path, step: int, lineage: Lineage) -> bool:
    if all(step <= rollback.target for rollback in lineage.rollbacks):
        return True  # and nothing need be read
    try:
        return lineage.holds(step, read_manifest(directory / names.snapshot_name(step)).round)
    except SnapshotCorrupt:
        return True


def set_aside(storage: Storage, directory: Path, lineage: Lineage) -> list[int]:
    """Rename the committed snapshots that are not on the lineage, each to ``step-….discarded-R`` with the number of the
    last rollback: they are evidence, and no snapshots any more. Returns their steps.
    """
    on, number = steps_on(directory, lineage), len(lineage.rollbacks)
    off = [step for step in committed_steps(directory) if step not in on]
    for step in off:
        _rename_aside(storage, directory / names.snapshot_name(step), f"{DISCARDED}{number}")
    if off:
        _point_at_last(storage, directory, on)
    return off


def _rename_aside(storage: Storage, snapshot: Path, mark: str) -> None:
    target, copy = snapshot.with_name(f"{snapshot.name}{mark}"), 1
    while target.exists():
        copy += 1
        target = snapshot.with_name(f"{snapshot.name}{mark}-{copy}")
    storage.rename(snapshot, target)


def _point_at_last(storage: Storage, directory: Path, steps: Sequence[int]) -> None:
    if steps and (directory / "latest").is_symlink():
        storage.point(directory / "latest", names.snapshot_name(steps[-1]))
    storage.sync_directory(directory)


def discarded(directory: Path) -> list[Path]:
    """Snapshots that a rollback has set aside."""
    if not directory.is_dir():
        return []
    found = directory.glob(f"*{DISCARDED}*")
    return sorted(path for path in found if names.snapshot_step(path.name.partition(DISCARDED)[0]) is not None)


def count_quarantined(directory: Path) -> int:
    """How many snapshots are set aside as corrupt."""
    if not directory.is_dir():
        return 0
    return sum(
        names.snapshot_step(path.name.partition(CORRUPT)[0]) is not None for path in directory.glob(f"*{CORRUPT}*")
    )


def is_damage(error: SnapshotCorrupt) -> bool:
    """Whether the snapshot is to blame; not where reading it failed for a reason that says nothing of it, and would
    hold for all others too.
    """
    return not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_MOMENT)


def quarantine(storage: Storage, snapshot: Path) -> Path:
    """Move a corrupt snapshot out of the way; it is kept for whoever wants to know why. Returns its new path."""
    target, number = snapshot.with_name(snapshot.name + CORRUPT), 1
    while target.exists():
        number += 1
        target = snapshot.with_name(f"{snapshot.name}{CORRUPT}-{number}")
    storage.rename(snapshot, target)
    steps = committed_steps(snapshot.parent)
    if steps and (snapshot.parent / "latest").is_symlink():
        storage.point(snapshot.parent / "latest", names.snapshot_name(steps[-1]))
    storage.sync_directory(snapshot.parent)
    return target


def _read_chunks(path: Path, size: int, *, cached: bool) -> Iterator[memoryview]:
    """The file's chunks, one after the other in the same memory."""
    buffer = memory_for_disk(min(CHUNK, size))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if cached else open_direct(path, os.O_RDONLY)
    try:
        for at in range(0, size, CHUNK):
            chunk = buffer[: min(CHUNK, size - at)]
            read_exactly(descriptor, chunk, at)
            yield chunk
    finally:
        os.close(descriptor)
