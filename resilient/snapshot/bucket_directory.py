"""A directory as a bucket: another disk, or a shared filesystem. Durable as a local commit is: files and the
directories that hold them are fsynced.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from resilient.snapshot.direct import open_direct, read_exactly, write_all
from resilient.snapshot.hashing import CHUNK, Checksum, digest
from resilient.snapshot.storage import Storage

_PARTIAL, _FRESH = ".partial-", ".fresh-"


class DirectoryBucket:
    """Objects are the files of the directory ``name`` in ``place``; one that is being written has a name that begins
    with a dot.

    ``place`` must be there: were it made, a disk that is not mounted would look like one without snapshots.
    """

    def __init__(self, place: Path, name: str) -> None:
        self._place = place
        self._root = place / name
        self._storage = Storage()

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        found = {}
        for key, path in self._files():
            if key.startswith(prefix) and not path.name.startswith("."):
                with suppress(FileNotFoundError):
                    found[key] = path.stat().st_size
        return found

    def read(self, key: str, start: int, into: memoryview) -> None:
        descriptor = open_direct(self._root / key, os.O_RDONLY)
        try:
            read_exactly(descriptor, into, start)
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes | memoryview) -> None:
        path = self._root / key
        self._make(path.parent)
        fresh = path.with_name(f"{_FRESH}{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            self._storage.write(fresh, lambda append: append(memoryview(data)))
            self._storage.rename(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        self._storage.sync_directory(path.parent)

    def begin(self, key: str, checksum: Checksum) -> FileUpload:
        path = self._root / key
        self._make(path.parent)
        return FileUpload(path, checksum, self._storage)

    def unfinished(self) -> Collection[str]:
        return {
            str(Path(key).with_name(path.name.removeprefix(_PARTIAL)))
            for key, path in self._files()
            if path.name.startswith((_PARTIAL, _FRESH))
        }

    def abandon(self, key: str) -> None:
        path = self._root / key
        path.with_name(_PARTIAL + path.name).unlink(missing_ok=True)
        if path.name.startswith(_FRESH):
            path.unlink(missing_ok=True)
        self._forget(path.parent)

    def delete(self, keys: Sequence[str]) -> None:
        parents = {(self._root / key).parent for key in keys}
        for key in keys:
            (self._root / key).unlink(missing_ok=True)
        for parent in parents:
            if parent.is_dir():
                self._storage.sync_directory(parent)
            self._forget(parent)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Key and path of every file."""
        if not self._place.is_dir():
            raise FileNotFoundError(f"{self._place} is not there; make the directory, or mount the disk")
        for directory, _, files in os.walk(self._root, onerror=_raise_unless_gone):
            for name in files:
                path = Path(directory) / name
                yield str(path.relative_to(self._root)), path

    def _make(self, directory: Path) -> None:
        """Make a directory and those above it, each durable in the one that holds it."""
        if directory.is_dir():
            return
        if directory == self._place:
            raise FileNotFoundError(f"{directory} is not there; make the directory, or mount the disk")
        self._make(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir()
        self._storage.sync_directory(directory.parent)

    def _forget(self, directory: Path) -> None:
        """Remove a directory of a snapshot once it is empty."""
        if directory != self._root:
            with suppress(OSError):
                directory.rmdir()


class FileUpload:
    """A file that grows part after part, and gets its name when it is whole."""

    ordered = True

    def __init__(self, path: Path, checksum: Checksum, storage: Storage) -> None:
        self._path = path
        self._partial = path.with_name(_PARTIAL + path.name)
        self._storage = storage
        whole = _sound_chunks(self._partial, checksum)
        self.present: Collection[int] = range(whole)

    def send(self, number: int, data: memoryview) -> None:
        descriptor = open_direct(self._partial, os.O_WRONLY | os.O_CREAT)
        try:
            os.ftruncate(descriptor, number * CHUNK)  # a part that was cut short begins again
            os.lseek(descriptor, number * CHUNK, os.SEEK_SET)
            self._write(descriptor, data)
            self._storage.sync(descriptor)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, data: memoryview) -> None:
        write_all(descriptor, data)

    def finish(self) -> None:
        if self._partial.exists() or not self._path.exists():
            self._storage.rename(self._partial, self._path)
        self._storage.sync_directory(self._path.parent)


def _sound_chunks(partial: Path, checksum: Checksum) -> int:
    """How many of the first chunks lie in a partial file, read back: after a power cut its size proves nothing."""
    try:
        descriptor = open_direct(partial, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    buffer = memoryview(bytearray(min(CHUNK, checksum.size)))
    try:
        for number, expected in enumerate(checksum.chunks):
            chunk = buffer[: min(CHUNK, checksum.size - number * CHUNK)]
            try:
                read_exactly(descriptor, chunk, number * CHUNK)
            except EOFError:
                return number
            if digest(chunk) != expected:
                return number
    finally:
        os.close(descriptor)
    return len(checksum.chunks)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
