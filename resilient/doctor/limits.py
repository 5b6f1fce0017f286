"""Limits that a process inherits (``ulimit``), and that of its cgroup on the number of processes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.memory import need_of
from resilient.doctor.words import size
from resilient.doctor.world import World
from resilient.supervisor.processes import content, thread_numbers

_TORCH_ADDRESSES = 8 << 30  # bytes of addresses that a worker with torch on a CPU takes, generously
_FEW_FILES, _FEWEST_FILES = 4096, 256
_THREADS_PER_RANK = 64  # of a worker, its data loading processes and their libraries
_INFINITY = resource.RLIM_INFINITY


@dataclass(frozen=True)
class Needs:
    """What the limits are compared with.

    :param slots: bytes of all memory snapshots' slots; None if it is not known.
    :param image: bytes of the largest file that is written; None if it is not known.
    """

    ranks: int = 1
    slots: int | None = None
    image: int | None = None
    has_gpu: bool = False
    has_infiniband: bool = False


def judge_addresses(limit: int, needs: Needs) -> Finding:
    least = _TORCH_ADDRESSES + (needs.slots or 0)
    if limit == _INFINITY:
        return ok("addresses are not limited")
    text = f"the address space is limited to {size(limit)} (ulimit -v)"
    if needs.has_gpu:
        return problem(f"{text}, and CUDA reserves more addresses than any machine has memory", "ulimit -v unlimited")
    if limit < least:
        return problem(f"{text}, and a worker needs about {size(least)}", "ulimit -v unlimited")
    return ok(text)


def judge_locked(limit: int, needs: Needs) -> Finding:
    if limit == _INFINITY:
        return ok("locked memory is not limited")
    text = f"locked memory is limited to {size(limit)} (ulimit -l)"
    if needs.has_infiniband:
        return warning(f"{text}, and NCCL over InfiniBand needs more", "ask for memlock unlimited on the nodes")
    if needs.has_gpu:
        return note(f"{text}: where the driver keeps to it, slots are not pinned and copies to them are slower")
    return ok(f"{text}, which matters to GPUs and InfiniBand alone")


def judge_files(soft: int, hard: int) -> Finding:
    text = f"{soft} open files are allowed to a process (ulimit -n)"
    more = f"ulimit -n {hard}" if hard > soft else "ask for a higher limit (nofile)"
    if soft == _INFINITY or soft >= _FEW_FILES:
        return ok(text if soft != _INFINITY else "open files are not limited")
    if soft < _FEWEST_FILES:
        return problem(f"{text}, which is too few for torch and its data loading processes", more)
    return warning(f"{text}: many data loading processes can run out of them", more)


def judge_processes(limit: int, used: int, needs: Needs, what: str) -> Finding:
    """:param limit: of processes and threads; ``used`` are there already."""
    wanted = _THREADS_PER_RANK * needs.ranks
    left = limit - used
    text = f"{what} allows {limit} processes and threads, and {used} are there"
    if left < wanted // 4:
        return problem(f"{text}: {needs.ranks} ranks will not find room", "raise it, or end what is not needed")
    if left < wanted:
        return warning(f"{text}: {needs.ranks} ranks with data loading processes may run out", "raise it")
    return ok(text)


def judge_cores(limit: int, pattern: str) -> Finding:
    if limit == 0 or pattern.startswith("|"):
        return ok("a crash leaves no core file of the workers' memory behind")
    told = "of any size" if limit == _INFINITY else f"of up to {size(limit)}"
    return note(
        f"a worker that crashes leaves a core file {told} ({pattern}), and the relaunch waits until it is written",
        "ulimit -c 0, unless you want them",
    )


def judge_file_size(limit: int, image: int | None) -> Finding:
    if limit == _INFINITY:
        return ok("the size of files is not limited")
    text = f"files may not become larger than {size(limit)} (ulimit -f)"
    if image is not None and image > limit:
        return problem(f"{text}, and a snapshot's image has {size(image)}", "ulimit -f unlimited")
    return warning(f"{text}: a snapshot or a log that reaches it is lost", "ulimit -f unlimited")


def _needs(world: World) -> Needs:
    state = world.subject.state_bytes() if world.subject is not None else None
    return Needs(
        world.ranks,
        need_of(world.subject),
        state,
        has_gpu=(world.devices / "nvidiactl").exists(),
        has_infiniband=(world.devices / "infiniband").is_dir(),
    )


def _soft(kind: int) -> int:
    return resource.getrlimit(kind)[0]


def _processes(world: World) -> Finding:
    """The tighter of the user's limit, which root does not have, and that of the cgroup."""
    needs, proc = _needs(world), world.proc
    found = [judge_processes(*limit, needs, "the cgroup") for limit in _cgroup_limits(world)]
    limit = _soft(resource.RLIMIT_NPROC)
    if limit != _INFINITY and os.geteuid() != 0:
        found.append(judge_processes(limit, _threads_of_user(proc), needs, "the limit of this user (ulimit -u)"))
    return max(found, key=lambda finding: finding.level.rank, default=ok("processes are not limited"))


def _threads_of_user(proc: Path) -> int:
    pids = [path for path in proc.iterdir() if path.name.isdecimal()]
    return sum(len(thread_numbers(int(path.name), proc)) for path in pids if _owner(path) == os.getuid())


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _cgroup_limits(world: World) -> list[tuple[int, int]]:
    """Limit and use of this process's cgroup and those above it, of either version; a container sees its own alone."""
    found = []
    for line in content(world.proc / "self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers not in {"", "pids"}:
            continue
        root = world.cgroups / controllers
        below = root / path.lstrip("/")
        for place in (below, *below.parents):
            limit, used = content(place / "pids.max").strip(), content(place / "pids.current").strip()
            if limit.isdecimal() and used.isdecimal():
                found.append((int(limit), int(used)))
            if place == root:
                break
    return found


def _of(kind: int, judge: Callable[[int, World], Finding]) -> Callable[[World], Finding]:
    return lambda world: judge(_soft(kind), world)


CHECKS = (
    Check(
        "limits.addresses",
        "the limit on addresses",
        _of(resource.RLIMIT_AS, lambda limit, world: judge_addresses(limit, _needs(world))),
    ),
    Check(
        "limits.locked",
        "the limit on locked memory",
        _of(resource.RLIMIT_MEMLOCK, lambda limit, world: judge_locked(limit, _needs(world))),
    ),
    Check(
        "limits.files",
        "the limit on open files",
        lambda _world: judge_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
    ),
    Check("limits.processes", "the limits on processes", _processes),
    Check(
        "limits.file_size",
        "the limit on the size of files",
        _of(resource.RLIMIT_FSIZE, lambda limit, world: judge_file_size(limit, _needs(world).image)),
    ),
    Check(
        "limits.cores",
        "core files",
        _of(
            resource.RLIMIT_CORE,
            lambda limit, world: judge_cores(limit, content(world.proc / "sys/kernel/core_pattern").strip()),
        ),
    ),
)
