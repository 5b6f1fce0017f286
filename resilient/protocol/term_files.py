"""The files of terms, one method per operation that a crash can separate from the next.

Several nodes use the directory at the same time, and it may be on NFS. So nothing here rests on locks: what must happen
once is done by ``link``, which the server does in one step and for one node alone; whatever is read is opened anew,
which is when NFS looks whether it has changed; and a listing is preceded by a change of the directory, or the client
would answer from what it remembers.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from resilient.errors import RunDirectoryNotWritable, TermUnreadable
from resilient.protocol.small_file import sync_directory

LARGEST = 4096
"""Bytes of any of these files."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class TermFiles:
    """One node's view of the directory. Tests replace it by one that stops, or lets others go first."""

    def __init__(self, directory: Path, node: str) -> None:
        """Nothing is done yet.

        :param node: makes the names under which it writes its own.
        """
        self.directory = directory
        self._node = node

    def create(self) -> None:
        """Make the directory, where nobody has.

        :raises RunDirectoryNotWritable: it cannot be made.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryNotWritable(
                f"{self.directory} cannot be made: {error.strerror}", "check the permissions of the run directory"
            ) from error

    def names(self) -> list[str]:
        """All that is there now.

        :raises OSError: it cannot be said.
        """
        with suppress(OSError):
            os.utime(self.directory)
        return [path.name for path in self.directory.iterdir()]

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where there is none.

        :raises TermUnreadable: it is none that we can have written.
        :raises OSError: it cannot be read.
        """
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise _foreign(path, "it is a symbolic link") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _foreign(path, "it is no ordinary file")
            if found.st_uid != os.geteuid():
                raise _foreign(path, f"it belongs to user {found.st_uid}, and only the run's own user leads it")
            data = os.read(descriptor, LARGEST + 1)
        finally:
            os.close(descriptor)
        if len(data) > LARGEST:
            raise _foreign(path, f"it has more than {LARGEST} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write, durably, what is then to be linked or to replace ``name``. What a killed predecessor of this node has
        left there is overwritten.
        """
        fresh = self._fresh(name)
        with suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, name: str) -> None:
        """Give what was written its name, unless there is one of that name.

        :raises FileExistsError: there is; or it is ours, and the answer of the server that said so was lost.
        :raises RunDirectoryNotWritable: the filesystem cannot do that.
        """
        try:
            os.link(self._fresh(name), self.directory / name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise RunDirectoryNotWritable(
                f"{self.directory} cannot be used by several nodes: its filesystem makes no hard links",
                "choose another place that all nodes share with run.dir=…",
            ) from error

    def replace(self, name: str) -> None:
        """Give what was written its name, in the place of what has it."""
        self._fresh(name).replace(self.directory / name)

    def clean(self, name: str) -> None:
        """Remove what was written and has its name by now, or never will."""
        self._fresh(name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Make the names durable."""
        sync_directory(self.directory)

    def overwrite(self, name: str, data: bytes) -> None:
        """Put other bytes in the place of as many; a full disk has room for them. Whoever reads meanwhile may see some
        of both.
        """
        descriptor = os.open(
            self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
        )
        try:
            os.pwrite(descriptor, data, 0)
        finally:
            os.close(descriptor)

    def _fresh(self, name: str) -> Path:
        return self.directory / f".{name}.{self._node}"


def _foreign(path: Path, why: str) -> TermUnreadable:
    return TermUnreadable(f"{path} was not written by this run: {why}", "find out who did, and remove it")
