"""The disk with nothing around it: raw writes and reads, syncing, and forgetting what the page cache has."""

from __future__ import annotations

import os
from pathlib import Path

CHUNK = 64 << 20


def write_raw(path: Path, data: memoryview) -> None:
    """Write with ``O_DIRECT`` and ``fsync``; a tail that is no multiple of 4 KiB is left out."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    for at in range(0, len(data), CHUNK):
        os.write(descriptor, data[at : at + CHUNK])
    os.fsync(descriptor)
    os.close(descriptor)


def read_raw(path: Path, into: memoryview) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for at in range(0, len(into), CHUNK):
        os.readv(descriptor, [into[at : at + CHUNK]])
    os.close(descriptor)


def sync_tree(path: Path) -> None:
    """``fsync`` of a file, or of everything below a folder and the folders themselves."""
    for item in _below(path):
        descriptor = os.open(item, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def drop_caches(path: Path) -> None:
    """Take a file, or all below a folder, out of the page cache, so that reading it reads the disk."""
    for item in _below(path):
        if item.is_file():
            descriptor = os.open(item, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _below(path: Path) -> list[Path]:
    return [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
