"""The tenancy of a memory directory: whose it is, and that somebody is using it.

A run's own lock does not do for that. Shared memory can be seen from containers that do not see the run's directory,
and the directory can be deleted and made anew under a run that is up.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from resilient.errors import RunLocked
from resilient.protocol.lock import Owner

LOCK = "lock"
TENANT = "tenant.json"
_PATIENCE = 5.0  # seconds; whoever judges leftovers has the lock for milliseconds
_POLL_SECONDS = 0.01


def boot_id() -> str:
    """Names the time since this machine was last switched on; nothing where the kernel does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@dataclass(frozen=True)
class Tenant:
    """The run that a memory directory belongs to.

    :param root: directory of the run.
    :param device: number of the filesystem that ``root`` is on, as ``stat`` gives it; tells a run that was deleted from
        a filesystem that is not mounted.
    :param boot: what is in shared memory, and in files that no ``fsync`` has been done for, is good until the machine
        is switched off.
    :param owner: its last supervisor.
    """

    root: str
    device: int
    boot: str
    owner: Owner

    @classmethod
    def current(cls, root: Path, host: str) -> Tenant:
        return cls(str(root), root.stat().st_dev, boot_id(), Owner.current(host))

    def write(self, directory: Path) -> None:
        (directory / TENANT).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: Path) -> Tenant | None:
        """None where there is no record, or none that can be understood."""
        try:
            body = json.loads((directory / TENANT).read_bytes())
            owner = Owner.parse(json.dumps(body["owner"]).encode())
            return cls(str(body["root"]), int(body["device"]), str(body["boot"]), owner) if owner is not None else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


class Tenancy:
    """A lock on a memory directory: shared by those who use it, exclusive for who empties it."""

    def __init__(self, directory: Path, patience: float = _PATIENCE) -> None:
        """Take it, alone.

        :raises RunLocked: somebody is using the directory.
        :raises FileNotFoundError: there is no such directory.
        """
        self._directory = directory
        self._path = directory / LOCK
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() >= deadline:
                tenant = Tenant.read(directory)
                who = f"process {tenant.owner.pid} on {tenant.owner.host}" if tenant else "another process"
                raise RunLocked(
                    f"the snapshot memory {directory} is in use by {who}", "stop that one, or choose another run.id"
                )
            time.sleep(_POLL_SECONDS)

    def _try(self) -> bool:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return True
        except OSError:  # taken; or removed with the directory by who had it, and whoever comes now has a new one
            pass
        os.close(self._descriptor)
        return False

    def share(self) -> None:
        """Go on using the directory, and let others of the same run do so too."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def leave(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the directory. What says whose it is goes last, so that what is cut short can be finished."""
        last = [self._directory / TENANT, self._path]
        for path in self._directory.iterdir():
            if path not in last:
                path.unlink()
        for path in last:
            path.unlink(missing_ok=True)
        self._directory.rmdir()
