"""What can be found out when something goes wrong: stacks of hung ranks, out-of-memory kills, faults of the GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from resilient.doctor import program
from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok
from resilient.doctor.world import World
from resilient.supervisor.cgroup import MemoryCgroup
from resilient.supervisor.kernel_log import KernelLog
from resilient.supervisor.stacks import find_py_spy

_SPY_SECONDS = 15.0


def _stacks(world: World) -> Finding:
    """py-spy reads the stacks of a child of ours, as it would those of a hung worker."""
    spy = find_py_spy()
    if spy is None:
        return note(
            "py-spy is not installed: a hung rank is asked for its Python stacks, but its C code is not seen, nor is "
            "one that cannot answer",
            "pip install py-spy",
        )
    sleeper = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(sleeper, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
        try:
            assert child.stdout is not None  # noqa: S101  asked for
            child.stdout.readline()
            answer = program.ask([spy, "dump", "--pid", str(child.pid)], world.environment, _SPY_SECONDS)
        finally:
            child.kill()
    if answer.is_good:
        return ok("py-spy can read the stacks of other processes")
    return note(
        f"py-spy is not allowed to read the stacks of other processes ({answer.last_words}): those of a hung rank come "
        f"from itself alone{_yama(world.proc)}",
        "docker run --cap-add=SYS_PTRACE, or ask for kernel.yama.ptrace_scope=0",
    )


def _yama(proc: Path) -> str:
    try:
        return f"; kernel.yama.ptrace_scope is {(proc / 'sys/kernel/yama/ptrace_scope').read_text().strip()}"
    except OSError:
        return ""


def _kernel_log(world: World) -> Finding:
    log = KernelLog(world.kernel_log)
    try:
        if log.readable:
            return ok("the kernel's log can be read: it tells of out-of-memory kills and of GPU faults (Xid)")
    finally:
        log.close()
    return note(
        "the kernel's log cannot be read, as is usual without root: that a GPU fault (Xid) has killed a worker is not "
        "seen in it",
        "nothing, or ask for kernel.dmesg_restrict=0",
    )


def _cgroup(world: World) -> Finding:
    found = MemoryCgroup(world.proc / "self/cgroup", world.cgroups)
    if found.directory is not None:
        return ok(f"the kernel's count of out-of-memory kills can be read in {found.directory}")
    return note(
        "neither version 1 nor 2 of the memory cgroup can be read: a worker that was killed for lack of memory looks "
        "like any other that was killed"
    )


CHECKS = (
    Check("evidence.stacks", "py-spy and the permission to use it", _stacks, seconds=_SPY_SECONDS + 10),
    Check("evidence.kernel_log", "the kernel's log", _kernel_log),
    Check("evidence.cgroup", "the memory files of the cgroup", _cgroup),
)
