"""The spill: where slots go for which shared memory has no room, files on disk that are mapped just the same.

Processes find a slot by its path in the memory directory, so a slot that moves leaves a symbolic link there. The page
cache keeps its content when its writer dies, as shared memory would; only the copying is slower.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from resilient.errors import StorageFull
from resilient.protocol.pages import FULL, reserve

REMEDY = (
    "make /dev/shm larger (docker run --shm-size=…, or mount -o remount,size=… /dev/shm), lower snapshot.slots, or "
    "set snapshot.memory_dir to a directory with more room"
)


def mebibytes(size: int) -> str:
    """``12.5 MiB``."""
    return f"{size / (1 << 20):.1f} MiB"


def room_in(directory: Path) -> int:
    """Bytes that are free on the filesystem of a directory, or of the nearest one above it that exists."""
    stats = os.statvfs(_existing(directory))
    return stats.f_bavail * stats.f_frsize


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.is_dir())


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


class Spill:
    """A directory on disk that takes slots. It is made when the first one comes.

    :param directory: where. Files in it have the names of their slots.
    :param warn: called with one message when the first slot comes.
    """

    def __init__(self, directory: Path, warn: Callable[[str], None] = _warn) -> None:
        self.directory = directory
        self._warn: Callable[[str], None] | None = warn

    def file_of(self, slot: Path) -> Path:
        """The file on disk for the slot that lies, or lay, at ``slot``."""
        return self.directory / slot.name

    def take(self, slot: Path, size: int) -> int:
        """Make a file of ``size`` bytes for a slot that is to move, and return its descriptor.

        :raises StorageFull: there is no room for it here either.
        """
        free = room_in(slot.parent)
        problem = (
            f"no room for {size} bytes of snapshot memory: {mebibytes(free)} are free in {slot.parent} "
            f"and {mebibytes(room_in(self.directory))} in {self.directory}"
        )
        if _existing(self.directory).stat().st_dev == slot.parent.stat().st_dev:
            raise StorageFull(f"no room for {size} bytes of snapshot memory in {slot.parent}", REMEDY)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.file_of(slot)
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            reserve(descriptor, size)
        except OSError as error:
            os.close(descriptor)
            file.unlink()
            if error.errno in FULL:
                raise StorageFull(problem, f"free space on that disk, or {REMEDY}") from error
            raise
        self._tell(slot, size, free)
        return descriptor

    def link(self, slot: Path) -> None:
        """From now on, whoever opens ``slot`` opens the file on disk."""
        fresh = slot.with_name(f".{slot.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.file_of(slot))
        fresh.replace(slot)

    def remove(self, slots: list[str]) -> None:
        """Remove the files of these slots, and the directory when it is empty then."""
        for name in slots:
            (self.directory / name).unlink(missing_ok=True)
        try:
            self.directory.rmdir()
        except OSError:  # another node's slots are in it, or it was never made
            return

    def _tell(self, slot: Path, size: int, free: int) -> None:
        if self._warn is None:
            return
        self._warn(
            f"shared memory is too small: {slot.name} needs {mebibytes(size)} and {mebibytes(free)} are free in "
            f"{slot.parent}, so it is kept in {self.directory}, on disk. Snapshots are taken as before, but copying "
            f"is slower. To have them in memory, {REMEDY}"
        )
        self._warn = None
