"""One owner per run and node: an advisory lock on a file that also says who the owner is.

The kernel drops the lock with its owner, so a stale one cannot exist; what is left in the file tells the successor whether its
predecessor closed the run or was killed, and which process of it to look for.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from resilient.errors import RunDirectoryNotWritable, RunLocked


@dataclass(frozen=True)
class Owner:
    """A process, safely named: process numbers are reused, number and start time together are not.

    :param started: seconds since the epoch.
    """

    pid: int
    started: float
    host: str

    @classmethod
    def current(cls, host: str) -> Owner:
        return cls(os.getpid(), psutil.Process().create_time(), host)


class RunLock:
    """The lock of a run. Hold it for as long as anything of the run is changed."""

    def __init__(self, path: Path, host: str) -> None:
        """Take the lock.

        :raises RunLocked: a live process has it.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunDirectoryNotWritable(f"{path} cannot be opened: {error.strerror}", "check its permissions") from error
        self.predecessor = self._read()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            owner = self.predecessor
            who = f"process {owner.pid} on {owner.host}" if owner else "another process"
            raise RunLocked(
                f"the run in {path.parent} is owned by {who}",
                "wait for it to end, or stop it with SIGTERM; a second run needs another run.id",
            ) from error
        self.owner = Owner.current(host)
        self._write(self.owner)

    def release(self) -> None:
        """Give the run back in good order: the successor will not take it for killed."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _read(self) -> Owner | None:
        try:
            body = json.loads(os.pread(self._descriptor, 1 << 16, 0))
            return Owner(int(body["pid"]), float(body["started"]), str(body["host"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _write(self, owner: Owner) -> None:
        data = json.dumps(asdict(owner)).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
