"""The scratch directory: where ``multiprocessing`` in the workers keeps its sockets, and how it names its semaphores.

A DataLoader worker hands its batches over at a socket in a temporary directory of its own, and removes both when it
ends in good order. One that is killed cannot, and each relaunch would leave some more. So with a semaphore, which has
a name for the moment between being made and being opened. With one directory and one prefix for all processes of a
run, the supervisor removes what is left.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where the C library keeps named semaphores
_MOST_BYTES = 80  # of its path, so that the names of sockets in it fit into the 108 of an address


class Scratch:
    """A directory for one run, under a name that a successor finds again."""

    def __init__(self, identity: str) -> None:
        """:param identity: of the run."""
        self.directory = Path(tempfile.gettempdir()) / f"resilient-{os.getuid()}-{identity[:16]}"

    def make(self) -> Path | None:
        """Make it, or empty it; call it while no worker is up. None where it cannot be ours, or its name is too long:
        then each process makes one of its own, as ever.
        """
        if len(os.fsencode(self.directory)) > _MOST_BYTES:
            return None
        self.remove()
        with suppress(OSError):
            self.directory.mkdir(mode=0o700, exist_ok=True)
        return self.directory if self._is_ours() else None

    def remove(self) -> None:
        """Remove it with all that is in it, and the names of semaphores."""
        if self._is_ours():
            shutil.rmtree(self.directory, ignore_errors=True)
        for semaphore in _SHARED_MEMORY.glob(f"sem.{_semaphores(self.directory)}-*"):
            with suppress(OSError):
                semaphore.unlink()

    def _is_ours(self) -> bool:
        """Others may write to the directory that it is in, and have been there before us."""
        try:
            found = self.directory.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _semaphores(directory: Path) -> str:
    return f"mp-{directory.name}"


def use_scratch(directory: str) -> None:
    """Have ``multiprocessing`` use it, in this process and in those forked from it."""
    import multiprocessing  # noqa: PLC0415  only where torch, which needs it too, is imported

    # What `multiprocessing` looks at before it makes such names. There is no public way to set it.
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001
    settings.update(tempdir=directory, semprefix=f"/{_semaphores(Path(directory))}")
    # Whoever tidies up temporary files may have removed it: here, what a process misses is made by its parent.
    os.register_at_fork(before=lambda: _ensure(directory))


def _ensure(directory: str) -> None:
    with suppress(OSError):
        Path(directory).mkdir(mode=0o700)
