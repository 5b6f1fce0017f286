"""Memory: room for the slots of the memory snapshots, and the limit that the kernel kills at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.subject import Subject
from resilient.doctor.words import size
from resilient.doctor.world import World
from resilient.protocol import board
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.cgroup import MemoryCgroup, MemoryUse
from resilient.supervisor.memory import RunMemory

_CONTAINER_DEFAULT = 64 << 20
_ENLARGE = (
    "docker run --shm-size=…, in Kubernetes an emptyDir with medium: Memory at /dev/shm, elsewhere "
    "mount -o remount,size=… /dev/shm; or set snapshot.memory_dir"
)
_KILLS_ABOVE = 0.9  # of the limit: the workers' own memory comes on top of the slots


@dataclass(frozen=True)
class Room:
    """Bytes of a filesystem; ``own`` are those that the run's memory has taken in it already."""

    total: int
    free: int
    own: int = 0


def judge_room(place: Path, room: Room, state: int | None, slots: int, ranks: int) -> Finding:
    """Whether ``slots`` images of all ranks fit.

    :param state: bytes of the images of all ranks on this machine; None if it is not known.
    """
    usable = room.free + room.own
    if usable < board.SIZE * ranks:
        return problem(f"{place} has no room left, not even for the boards, so no run can start", _ENLARGE)
    is_default = room.total <= _CONTAINER_DEFAULT
    name = f"{place} has {size(room.total)}" + (", which is what containers have by default" if is_default else "")
    if state is None:
        each = usable // (slots * ranks)
        if is_default:
            return warning(f"{name}: a state of more than {size(each)} for each rank has no room in it", _ENLARGE)
        return ok(f"{name}, {size(usable)} free: room for a state of {size(each)} for each of {ranks} ranks")
    need = state * slots
    if usable < need:
        return warning(
            f"{name}, {size(usable)} free, and {slots} slots of {size(state)} need {size(need)}: what does not fit "
            "goes to files in the run directory, which is slower",
            _ENLARGE + (", or snapshot.slots=2" if slots > 2 else ""),
        )
    if is_default:
        return warning(f"{name}: the slots fit, but DataLoader workers take their batches' room from it too", _ENLARGE)
    return ok(f"{place} has {size(usable)} free for {slots} slots of {size(state)}")


def judge_limit(use: MemoryUse, need: int | None) -> Finding:
    """Of the cgroup's limit, to which the slots count like any other memory.

    :param need: bytes of all slots; None if it is not known.
    """
    if use.limit is None:
        return ok("there is no memory limit but the machine's")
    text = f"the memory limit of this job or container is {size(use.limit)}"
    if need is None:
        return note(f"{text}; the slots of the memory snapshots count to it")
    if need > use.limit * _KILLS_ABOVE:
        return problem(
            f"{text}, and the slots alone need {size(need)}: the kernel will kill the workers",
            "ask for more memory (--mem=…), lower snapshot.slots, or set snapshot.memory_dir to a disk",
        )
    if need > use.limit / 2:
        return warning(f"{text}, and the slots take {size(need)} of it", "ask for more memory (--mem=…)")
    return ok(f"{text}, and the slots take {size(need)} of it")


def need_of(subject: Subject | None) -> int | None:
    """Bytes of all slots on this machine; None if the state's size is not known."""
    state = subject.state_bytes() if subject is not None else None
    return None if state is None or subject is None else state * subject.snapshot.slots


def _room(world: World) -> Finding:
    subject, slots = world.subject, SnapshotSettings().slots
    place, own, state = world.shared_memory, 0, None
    if subject is not None:
        place = Path(subject.snapshot.memory_dir) if subject.snapshot.memory_dir else place
        own = _allocated(RunMemory.place(subject.paths, str(place)))
        slots, state = subject.snapshot.slots, subject.state_bytes()
    if not place.is_dir():
        return warning(f"there is no directory {place}: the slots go to files in the run directory", _ENLARGE)
    if not os.access(place, os.W_OK | os.X_OK):
        return problem(f"{place} cannot be written by this user, so no run can start", "set snapshot.memory_dir")
    stats = os.statvfs(place)
    room = Room(stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize, own)
    return judge_room(place, room, state, slots, world.ranks)


def _allocated(directory: Path) -> int:
    files = [*directory.iterdir()] if directory.is_dir() else []
    return sum(path.stat().st_blocks * 512 for path in files if path.is_file() and not path.is_symlink())


def _limit(world: World) -> Finding:
    cgroup = MemoryCgroup(world.proc / "self/cgroup", world.cgroups)
    return judge_limit(cgroup.use(), need_of(world.subject))


CHECKS = (
    Check("memory.shared", "room in shared memory for the memory snapshots", _room),
    Check("memory.limit", "the memory limit of the job or container", _limit),
)
