"""Copies of a snapshot, near and far, read in one way: chunk by chunk, and no byte of a chunk before it is verified."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from resilient.errors import SnapshotCorrupt
from resilient.snapshot import catalog
from resilient.snapshot.bucket import Bucket
from resilient.snapshot.direct import open_direct, read_cached, read_exactly
from resilient.snapshot.ends import End
from resilient.snapshot.hashing import CHUNK, digest
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.memory import memory_for_disk
from resilient.snapshot.side_by_side import side_by_side

_AHEAD = 2  # one is hashed while the other is read
_LEAST_DIRECT = 1 << 20  # bytes; less is not worth it, and is not aligned


class Copy(Protocol):
    """One copy of a snapshot, in some tier."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        ...

    def read(self, file: ImageFile, offset: int, into: memoryview, expected: str) -> None:
        """Fill ``into`` from this byte of an image on.

        :param expected: the digest of what that has to be.
        :raises SnapshotCorrupt: it cannot be read, or is something else.
        """
        ...


class LocalCopy:
    """A committed snapshot directory.

    :param shared: several processes of this machine read it at the same time: through the page cache, so that the disk
        gives everything once. What is in there already is taken from there in any case.
    """

    def __init__(self, snapshot: Path, *, shared: bool = False) -> None:
        self._snapshot = snapshot
        self._shared = shared
        self.manifest = catalog.read_manifest(snapshot)
        self.place = str(snapshot)

    def read(self, file: ImageFile, offset: int, into: memoryview, expected: str) -> None:
        path = self._snapshot / file.name
        try:
            done = read_cached(path, offset, into)
            if done < len(into):
                direct = not self._shared and len(into) >= _LEAST_DIRECT
                descriptor = open_direct(path, os.O_RDONLY) if direct else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    read_exactly(descriptor, into[done:], offset + done)
                finally:
                    os.close(descriptor)
        except (OSError, EOFError) as error:
            raise SnapshotCorrupt(f"{self._snapshot.name}/{file.name} cannot be read: {error}") from error
        if digest(into) != expected:
            raise _mismatch(self._snapshot.name, file, offset, len(into))


class RemoteCopy:
    """A committed snapshot in a bucket.

    :param name: of its directory there.
    """

    def __init__(self, bucket: Bucket, name: str, manifest: Manifest) -> None:
        self._bucket = bucket
        self._name = name
        self.manifest = manifest
        self.place = name

    def read(self, file: ImageFile, offset: int, into: memoryview, expected: str) -> None:
        """As for every copy. What differs is read once more: it may have been the way here.

        :raises RemoteUnavailable: the bucket cannot be reached, which says nothing about the snapshot.
        """
        for _ in range(2):
            try:
                self._bucket.read(f"{self._name}/{file.name}", offset, into)
            except FileNotFoundError as error:
                raise SnapshotCorrupt(f"{self._name}/{file.name} is missing") from error
            except EOFError as error:
                raise SnapshotCorrupt(f"{self._name}/{file.name} ended early") from error
            if digest(into) == expected:
                return
        raise _mismatch(self._name, file, offset, len(into))


def read_chunk(copy: Copy, file: ImageFile, number: int, into: memoryview) -> None:
    """Fill ``into``, which has the chunk's size, and verify it.

    :raises SnapshotCorrupt: it cannot be read or fails its checksum.
    """
    copy.read(file, number * CHUNK, into, file.checksum.chunks[number])


def read_end(copy: Copy, file: ImageFile, offset: int, end: End) -> bytes:
    """One end of a file, verified.

    :raises SnapshotCorrupt: as there.
    """
    found = memoryview(bytearray(end.size))
    copy.read(file, offset, found, end.xxh3_128)
    return bytes(found)


def read_files(copy: Copy, wanted: Sequence[tuple[ImageFile, memoryview]]) -> None:
    """Read files, each into memory of exactly its size, several chunks at the same time.

    :raises SnapshotCorrupt: a chunk fails its checksum.
    """
    side_by_side(
        functools.partial(read_chunk, copy, file, number, into[number * CHUNK : (number + 1) * CHUNK])
        for file, into in wanted
        for number in range(len(file.checksum.chunks))
    )


def read_chunks(copy: Copy, file: ImageFile, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, memoryview]]:
    """The chunks of an image with their numbers, one after the other, as :func:`read_several` gives them.

    :param numbers: which; all by default.
    """
    wanted = range(len(file.checksum.chunks)) if numbers is None else numbers
    for _, number, chunk in read_several(copy, [(file, number) for number in wanted]):
        yield number, chunk


def read_several(copy: Copy, wanted: Sequence[tuple[ImageFile, int]]) -> Iterator[tuple[ImageFile, int, memoryview]]:
    """Chunks of several images, by image and number, one after the other; each is valid until the next is asked for.
    The next ones are read meanwhile.
    """
    sizes = [min(CHUNK, file.checksum.size - number * CHUNK) for file, number in wanted]
    buffers = [memory_for_disk(max(sizes)) for _ in sizes[: _AHEAD + 1]]

    def read(index: int) -> memoryview:
        (file, number), chunk = wanted[index], buffers[index % len(buffers)][: sizes[index]]
        read_chunk(copy, file, number, chunk)
        return chunk

    with ThreadPoolExecutor(_AHEAD, "resilient-read") as ahead:
        reads: deque[Future[memoryview]] = deque()
        begun = 0
        for index, (file, number) in enumerate(wanted):
            while begun < min(index + len(buffers), len(wanted)):  # nobody looks at the chunk before this one any more
                reads.append(ahead.submit(read, begun))
                begun += 1
            yield file, number, reads.popleft().result()


def read_range(copy: Copy, file: ImageFile, begin: int, end: int) -> bytes:
    """The bytes from ``begin`` to ``end`` of an image, verified."""
    numbers = range(begin // CHUNK, -(-end // CHUNK))
    found = bytearray()
    for number, chunk in read_chunks(copy, file, numbers):
        start = number * CHUNK
        found += chunk[max(begin - start, 0) : end - start]
    return bytes(found)


def verify(copy: Copy) -> None:
    """Read every byte.

    :raises SnapshotCorrupt: naming the file and the place.
    """
    for file in copy.manifest.files:
        for _ in read_chunks(copy, file):
            pass


def _mismatch(name: str, file: ImageFile, begin: int, size: int) -> SnapshotCorrupt:
    return SnapshotCorrupt(f"{name}/{file.name}: checksum mismatch in bytes {begin} to {begin + size}")
