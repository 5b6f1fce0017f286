"""Copies of a snapshot, near and far, read in one way: chunk by chunk, and no byte of a chunk before it is verified."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from resilient.errors import SnapshotCorrupt
from resilient.snapshot import catalog
from resilient.snapshot.bucket import Bucket
from resilient.snapshot.direct import open_direct, read_exactly
from resilient.snapshot.hashing import CHUNK, digest
from resilient.snapshot.manifest import ImageFile, Manifest

_STREAMS = 4  # reads at the same time; one alone does not fill a network


class Copy(Protocol):
    """One copy of a snapshot, in some tier."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        ...

    def read_chunk(self, file: ImageFile, number: int, into: memoryview) -> None:
        """Fill ``into``, which has the chunk's size, and verify it.

        :raises SnapshotCorrupt: it cannot be read or fails its checksum.
        """
        ...


class LocalCopy:
    """A committed snapshot directory."""

    def __init__(self, snapshot: Path) -> None:
        self._snapshot = snapshot
        self.manifest = catalog.read_manifest(snapshot)
        self.place = str(snapshot)

    def read_chunk(self, file: ImageFile, number: int, into: memoryview) -> None:
        try:
            descriptor = open_direct(self._snapshot / file.name, os.O_RDONLY)
            try:
                os.lseek(descriptor, number * CHUNK, os.SEEK_SET)
                read_exactly(descriptor, into)
            finally:
                os.close(descriptor)
        except (OSError, EOFError) as error:
            raise SnapshotCorrupt(f"{self._snapshot.name}/{file.name} cannot be read: {error}") from error
        if digest(into) != file.checksum.chunks[number]:
            raise _mismatch(self._snapshot.name, file, number)


class RemoteCopy:
    """A committed snapshot in a bucket.

    :param name: of its directory there.
    """

    def __init__(self, bucket: Bucket, name: str, manifest: Manifest) -> None:
        self._bucket = bucket
        self._name = name
        self.manifest = manifest
        self.place = name

    def read_chunk(self, file: ImageFile, number: int, into: memoryview) -> None:
        """As for every copy. One that differs is read once more: it may have been the way here.

        :raises RemoteUnavailable: the bucket cannot be reached, which says nothing about the snapshot.
        """
        for _ in range(2):
            try:
                self._bucket.read(f"{self._name}/{file.name}", number * CHUNK, into)
            except FileNotFoundError as error:
                raise SnapshotCorrupt(f"{self._name}/{file.name} is missing") from error
            except EOFError as error:
                raise SnapshotCorrupt(f"{self._name}/{file.name} ended early") from error
            if digest(into) == file.checksum.chunks[number]:
                return
        raise _mismatch(self._name, file, number)


def read_image(copy: Copy, file: ImageFile, into: memoryview) -> None:
    """Read an image into memory of exactly its size, several chunks at the same time.

    :raises SnapshotCorrupt: a chunk fails its checksum.
    """
    with ThreadPoolExecutor(_STREAMS, "resilient-read") as pool:
        reads = [
            pool.submit(copy.read_chunk, file, number, into[number * CHUNK : (number + 1) * CHUNK])
            for number in range(len(file.checksum.chunks))
        ]
        try:
            for read in reads:
                read.result()
        finally:
            for read in reads:
                read.cancel()


def read_chunks(copy: Copy, file: ImageFile, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, memoryview]]:
    """The chunks of an image with their numbers, one after the other; each is valid until the next is asked for. The
    next one is read meanwhile.

    :param numbers: which; all by default.
    """
    wanted = range(len(file.checksum.chunks)) if numbers is None else numbers
    sizes = [min(CHUNK, file.checksum.size - number * CHUNK) for number in wanted]
    buffers = [memoryview(mmap.mmap(-1, size)) for size in [max(sizes, default=1)] * min(2, len(sizes))]

    def read(index: int) -> memoryview:
        chunk = buffers[index % 2][: sizes[index]]
        copy.read_chunk(file, wanted[index], chunk)
        return chunk

    with ThreadPoolExecutor(1, "resilient-read") as ahead:
        reads = [ahead.submit(read, 0)] if sizes else []
        for index, number in enumerate(wanted):
            chunk = reads.pop().result()
            if index + 1 < len(sizes):
                reads.append(ahead.submit(read, index + 1))
            yield number, chunk


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


def _mismatch(name: str, file: ImageFile, number: int) -> SnapshotCorrupt:
    begin, end = number * CHUNK, min((number + 1) * CHUNK, file.checksum.size)
    return SnapshotCorrupt(f"{name}/{file.name}: checksum mismatch in bytes {begin} to {end}")
