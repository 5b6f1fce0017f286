"""A control group of its own for a run, so that it can run out of memory without the machine doing so."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import FaultNotInjected

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    """A memory control group, of version 1 or 2. It begins without a limit."""

    path: Path
    version: int

    @classmethod
    def make(cls, name: str, root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> MemoryGroup:
        """Make one below the group that this process is in.

        :raises FaultNotInjected: that is not allowed, or the system has none; the message says which.
        """
        version, above = _own_group(root, membership)
        group = cls(above / name, version)
        try:
            group.path.mkdir()
        except OSError as error:
            raise FaultNotInjected(f"no control group can be made in {above}: {error.strerror}") from error
        if not group.limit.exists():
            group.remove()
            raise FaultNotInjected(f"control groups in {above} have no memory limit of their own")
        group.forbid_swap()
        return group

    @property
    def usage(self) -> Path:
        return self.path / ("memory.usage_in_bytes" if self.version == 1 else "memory.current")

    @property
    def limit(self) -> Path:
        return self.path / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")

    def forbid_swap(self) -> None:
        """A limit on memory alone would only push the run into swap."""
        with suppress(OSError):
            name = "memory.swappiness" if self.version == 1 else "memory.swap.max"
            (self.path / name).write_text("0")

    def enter(self) -> None:
        """Move this process, and all it will start, into the group."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def lift(self) -> None:
        """Take the limit away."""
        with suppress(OSError):
            self.limit.write_text("-1" if self.version == 1 else "max")

    def remove(self) -> None:
        """Once all its processes are gone."""
        with suppress(OSError):
            self.path.rmdir()


def _own_group(root: Path, membership: Path) -> tuple[int, Path]:
    """Version and directory of the memory group that this process is in."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError as error:
        raise FaultNotInjected(f"this system has no control groups: {error.strerror}") from error
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return 1, root / "memory" / path.lstrip("/")
    for number, _, path in lines:
        if number == "0" and (root / "cgroup.controllers").exists():
            return 2, root / path.lstrip("/")
    raise FaultNotInjected("this system has no control group that limits memory")
