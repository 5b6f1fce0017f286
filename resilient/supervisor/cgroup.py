"""What a cgroup says of memory: how much there is, and how often the kernel has killed for lack of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resilient.supervisor.processes import content

_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2⁶³ where there is no limit


@dataclass(frozen=True)
class MemoryUse:
    """Bytes; None where it is not known, or there is no limit."""

    used: int | None = None
    limit: int | None = None


class MemoryCgroup:
    """The memory controller of one process's cgroup, version 1 or 2. Where there is none, it knows nothing.

    A container sees paths of the host in ``/proc/self/cgroup`` but only its own part of the hierarchy, so where the
    path does not exist the nearest directory above it that does is taken.
    """

    def __init__(self, cgroup: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> None:
        self._directory, self._version = _find(cgroup, mount)

    @property
    def directory(self) -> Path | None:
        return self._directory

    def oom_kills(self) -> int:
        """How often the kernel has killed a process here, or below, for lack of memory."""
        if self._directory is None:
            return 0
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        for line in content(self._directory / name).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.strip().isdecimal():
                return int(value)
        return 0

    def use(self) -> MemoryUse:
        """What is used now, and the limit."""
        if self._directory is None:
            return MemoryUse()
        names = ("memory.current", "memory.max")
        if self._version == 1:
            names = ("memory.usage_in_bytes", "memory.limit_in_bytes")
        used, limit = (_number(content(self._directory / name)) for name in names)
        return MemoryUse(used, limit if limit is not None and limit < _UNLIMITED else None)


def _find(cgroup: Path, mount: Path) -> tuple[Path | None, int]:
    paths: dict[str, str] = {}
    for line in content(cgroup).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            paths[controller] = path
    places = [(mount / "memory", paths.get("memory"), "memory.oom_control", 1)]
    places += [(root, paths.get(""), "memory.events", 2) for root in (mount, mount / "unified")]
    for root, known, name, version in places:
        if known is None:
            continue
        below = root / known.lstrip("/")
        for directory in (below, *below.parents):
            if (directory / name).is_file():
                return directory, version
            if directory == root:
                break
        if version == 2 and (root / "memory.current").is_file():
            return root, 2
    return None, 2


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None
