"""Leftovers: the snapshot memory of runs that are over or were killed.

The memory of a run outlives everything but the machine, on purpose: the next start of the run goes on from there. Of
a run that is never started again it would stay until the machine is switched off, so each start of any run looks at
what is there. What holds nothing that is not on disk as well is removed; what holds newer state is kept, and said to
be there. What somebody may be using, or cannot be understood, is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import RunLocked
from resilient.protocol.arena import SlotInfo
from resilient.protocol.lock import kept_idle
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.scratch import Scratch
from resilient.protocol.spill import Spill, mebibytes
from resilient.protocol.tenancy import LOCK, Tenancy, Tenant, boot_id
from resilient.snapshot import catalog
from resilient.supervisor.status import Status

_DIRECTORIES = f"resilient-{os.getuid()}-*"


@dataclass(frozen=True)
class Findings:
    """What is known about a memory directory that nobody is using.

    :param root_lost: the run's directory is gone from a filesystem that is there.
    :param reachable: the run's directory is there.
    :param same_run: the directory's identity is that of the run this memory belonged to.
    :param same_boot: the machine has not been switched off since it was written.
    :param finished: the run is.
    :param step: of the newest image that all ranks have, or None.
    :param durable: step of the newest durable snapshot, or None.
    """

    root_lost: bool = False
    reachable: bool = True
    same_run: bool = True
    same_boot: bool = True
    finished: bool = False
    step: int | None = None
    durable: int | None = None


def reason_to_remove(found: Findings) -> str | None:
    """Why nobody will ever want what is in it; None when somebody may."""
    if not found.same_boot:
        return "written before the machine was last switched on"
    if found.root_lost:
        return "the run was deleted"
    if not found.reachable:
        return None
    if not found.same_run:
        return "the run was deleted and begun anew"
    if found.finished:
        return "the run is finished"
    if found.step is None:
        return "nothing is in it"
    if found.durable is not None and found.step <= found.durable:
        return "all of it is durable"
    return None


def clear(parent: Path, own: Path, say: Callable[[str], None]) -> None:
    """Look at all memory directories of this user in ``parent`` but ``own``.

    :param say: called with one line for each that was removed, or is kept for a reason.
    """
    for directory in sorted(parent.glob(_DIRECTORIES)):
        if directory == own or directory.is_symlink():
            continue
        with suppress(OSError):  # somebody else is removing it, or it is not ours to look into
            if directory.stat().st_uid == os.getuid():
                _look_at(directory, say)


def _look_at(directory: Path, say: Callable[[str], None]) -> None:
    unknown = f"{directory} holds {mebibytes(_size(directory))} of an unknown run; delete it if nobody is using it"
    if not (directory / LOCK).exists():
        say(unknown)
        return
    try:
        tenancy = Tenancy(directory, patience=0.0)
    except RunLocked:
        return
    try:
        tenant = Tenant.read(directory)
        if tenant is None:
            say(unknown)
            return
        if tenant.owner.host != hostname():
            return
        with kept_idle(RunPaths(Path(tenant.root)).locks()):
            _judge(directory, tenant, tenancy, say)
    except RunLocked:
        return
    finally:
        tenancy.leave()


def _judge(directory: Path, tenant: Tenant, tenancy: Tenancy, say: Callable[[str], None]) -> None:
    found, paths, size = findings(directory, tenant), RunPaths(Path(tenant.root)), mebibytes(_size(directory))
    reason = reason_to_remove(found)
    if reason is not None:
        _remove(directory, paths, tenancy)
        say(f"removed {size} of snapshot memory that {paths.run_id} ({paths.root}) had left: {reason}")
        return
    what = f"step {found.step}" if found.step is not None else "something"
    durable = "nothing" if found.durable is None else f"step {found.durable}"
    known = f"durable is {durable}" if found.reachable else f"{paths.root} cannot be reached"
    say(
        f"{paths.run_id} ({paths.root}) has left {what} in memory, {size}; {known}. Start that run again to go on from "
        f"there, or delete {directory}"
    )


def remove_own(directory: Path, paths: RunPaths) -> None:
    """Remove what is left of a finished run whose lock the caller has: its supervisor was killed at the last moment."""
    with suppress(OSError, RunLocked):
        tenancy = Tenancy(directory)
        _remove(directory, paths, tenancy)
        tenancy.leave()


def _remove(directory: Path, paths: RunPaths, tenancy: Tenancy) -> None:
    Spill(paths.memory).remove([path.name for path in directory.iterdir()])
    if identity := _text(directory / "identity"):
        Scratch(identity).remove()
    tenancy.remove()


def findings(directory: Path, tenant: Tenant) -> Findings:
    """Look at a directory and at its run, both of which nobody is using."""
    paths = RunPaths(Path(tenant.root))
    reachable = paths.root.is_dir()
    above = next(place for place in (paths.root, *paths.root.parents) if place.is_dir())
    if not reachable:
        return Findings(
            root_lost=above.stat().st_dev == tenant.device,
            reachable=False,
            same_boot=tenant.boot == boot_id(),
            step=newest_step(directory),
        )
    status = Status.read(paths.status)
    return Findings(
        same_run=_text(paths.root / "identity") == _text(directory / "identity") != "",
        same_boot=tenant.boot == boot_id(),
        finished=status is not None and status.finished,
        step=newest_step(directory),
        durable=max(catalog.committed_steps(paths.snapshots), default=None),
    )


def newest_step(directory: Path) -> int | None:
    """The newest step of which every rank in a memory directory has a complete image."""
    steps: dict[str, set[int]] = {}
    for path in directory.glob("rank-*.slot-*"):
        found = steps.setdefault(path.name.partition(".")[0], set())
        with suppress(OSError):
            info = SlotInfo.peek(path)
            if info is not None and info.complete:
                found.add(info.step)
    return max(set.intersection(*steps.values()), default=None) if steps else None


def ranks_in(directory: Path, paths: RunPaths) -> tuple[int, ...]:
    """The ranks of which there are images of this run in a memory directory."""
    if not is_of(directory, paths):
        return ()
    found = set()
    for path in directory.glob("rank-*.slot-*"):
        with suppress(OSError, ValueError):
            info = SlotInfo.peek(path)
            if info is not None and info.complete:
                found.add(rank_of(path))
    return tuple(sorted(found))


def is_of(directory: Path, paths: RunPaths) -> bool:
    """Whether what is in a memory directory is of this run, written since the machine was started."""
    tenant = Tenant.read(directory)
    return tenant is not None and tenant.boot == boot_id() and _text(directory / "identity") == paths.identity()


def rank_of(path: Path) -> int:
    """Whose board or slot a file is.

    :raises ValueError: it is neither.
    """
    return int(path.name.partition(".")[0].removeprefix("rank-"))


def _size(directory: Path) -> int:
    """Bytes that it takes, here and on disk."""
    total = 0
    for path in directory.iterdir():
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
