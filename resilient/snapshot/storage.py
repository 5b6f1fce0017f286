"""The file operations of a commit, one method per step that a crash can separate from the next.

What is *not* guaranteed: a disk that acknowledges a flush it has not done, or a network filesystem mounted without
honest ``fsync``, can still lose what :meth:`Storage.write` reported as durable. The checksums find it on load.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resilient.errors import StorageFull
from resilient.protocol.append import NO_ROOM
from resilient.protocol.small_file import sync_directory
from resilient.snapshot.direct import open_direct, write_all

Writer = Callable[[memoryview], None]

ASIDE = ".aside"
"""Suffix of a name in the middle of a swap on a filesystem that cannot swap."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Storage:
    """The local filesystem. Tests replace it by one that fails at a chosen operation."""

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, produce: Callable[[Writer], None]) -> None:
        """Create ``path``, let ``produce`` write into it, and return when it is durable.

        :raises StorageFull: the disk or the quota is full.
        """
        descriptor = open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            produce(lambda data: self.append(descriptor, data))
            self.sync(descriptor)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise StorageFull(f"the disk is full: {path}", "free space in the run directory") from error
            raise
        finally:
            os.close(descriptor)

    def append(self, descriptor: int, data: memoryview) -> None:
        write_all(descriptor, data)

    def spared(self, size: int) -> None:
        """So many bytes of an image need not be written, for they are in another one."""

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def exchange(self, one: Path, other: Path) -> None:
        """Swap two names in one step, so that at no moment either of them is missing."""
        if hasattr(_libc, "renameat2"):
            arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
            if _libc.renameat2(*arguments) == 0:
                return
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(number, os.strerror(number), str(one), None, str(other))
        # Some network filesystems cannot swap. In between, the older of the two is under a name that begins with a dot.
        aside = one.with_name(one.name + ASIDE)
        self.rename(one, aside)
        self.rename(other, one)
        self.rename(aside, other)

    def point(self, link: Path, target: str) -> None:
        """Make ``link`` a symbolic link to ``target``, in one step."""
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)

    def remove_file(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory. Somebody else may be at it too: it is gone when this returns."""
        while path.exists():
            with suppress(FileNotFoundError):  # the other one was quicker, here or there
                shutil.rmtree(path)

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still write on the filesystem of ``path``."""
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize
