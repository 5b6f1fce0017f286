"""One owner per run and node: an advisory lock on a file that also says who the owner is.

The kernel drops the lock when the last process that inherited it is gone, and all helpers and workers of a supervisor
do inherit it. So whoever gets the lock knows that nothing of a killed predecessor is still writing, and a stale lock
cannot exist. What is left in the file tells whether the predecessor closed the run or was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
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

    def is_alive(self, host: str) -> bool:
        """Whether it still runs; an owner on another host is taken to."""
        if self.host != host:
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Who has the lock file's lock, or was killed while having it; None after an orderly release."""
        try:
            return cls.parse(path.read_bytes())
        except OSError:
            return None

    @classmethod
    def parse(cls, data: bytes) -> Owner | None:
        try:
            body = json.loads(data)
            return cls(int(body["pid"]), float(body["started"]), str(body["host"]))
        except (ValueError, KeyError, TypeError):
            return None


@contextmanager
def kept_idle(locks: Iterable[Path]) -> Iterator[None]:
    """While inside, no supervisor can start on these locks. What is written in them stays: it is the successor's.

    :raises RunLocked: one of them is taken.
    """
    with ExitStack() as stack:
        for path in locks:
            stream = stack.enter_context(path.open("r+b"))  # NFS locks nothing that is only read
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise _locked(path, Owner.read(path)) from None
        yield


def _locked(path: Path, owner: Owner | None) -> RunLocked:
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return RunLocked(
        f"the run in {path.parent} is owned by {who}",
        "wait for it to end, or stop it with SIGTERM; a second run needs another run.id",
    )


class RunLock:
    """The lock of a run. Hold it for as long as anything of the run is changed, and pass it to every helper process."""

    _POLL_SECONDS = 0.02
    _LOOK_SECONDS = 1.0  # whoever only keeps the run idle, to look at what it has left, does so for a moment

    def __init__(
        self, path: Path, host: str, patience: float = 15.0, *, end_remains: Callable[[], object] = lambda: None
    ) -> None:
        """Take the lock.

        :param patience: seconds to wait for what a killed owner has left to end.
        :param end_remains: called once if that has not ended by itself after a moment.
        :raises RunLocked: a live process has it.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunDirectoryNotWritable(
                f"{path} cannot be opened: {error.strerror}", "check its permissions"
            ) from error
        try:
            self._wait(host, patience, end_remains)
        except RunLocked:
            os.close(self._descriptor)
            raise
        self.predecessor = self._read()
        self._write(Owner.current(host))

    def fileno(self) -> int:
        """The descriptor to pass on to helper processes."""
        return self._descriptor

    def release(self) -> None:
        """Give the run back in good order: the successor will not take it for killed."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _wait(self, host: str, patience: float, end_remains: Callable[[], object]) -> None:
        began, helped = time.monotonic(), False
        while not self._try():
            owner, waited = self._read(), time.monotonic() - began
            nobody = owner is None and waited > min(self._LOOK_SECONDS, patience)
            if nobody or (owner is not None and owner.is_alive(host)) or waited > patience:
                raise _locked(self._path, owner)
            if owner is not None and waited > min(self._LOOK_SECONDS, patience / 2) and not helped:
                helped = True
                end_remains()
            time.sleep(self._POLL_SECONDS)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _read(self) -> Owner | None:
        return Owner.parse(os.pread(self._descriptor, 1 << 16, 0))

    def _write(self, owner: Owner) -> None:
        """In this order: on a full disk there is room for what takes the place of something, and a kill in between
        leaves the predecessor, or something that nobody takes for a release in good order.
        """
        encoded = json.dumps(asdict(owner)).encode()
        os.pwrite(self._descriptor, encoded, 0)
        os.ftruncate(self._descriptor, len(encoded))
