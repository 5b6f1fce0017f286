"""Signals and processes: that a preemption is noticed, and that no process is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.world import World
from resilient.protocol.parent import adopt_orphans, children, die_with_parent

_PATIENCE = 5.0  # seconds for the kernel to do what takes it microseconds
_HOW = "somebody has set `trap '' TERM`, or an interpreter above this process ignores it: start resilient without that"


def _sigterm(_world: World) -> Finding:
    """A program that sets nothing up itself, and so has what it inherits, is sent one."""
    with subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL) as child:
        child.terminate()
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            return problem(
                "SIGTERM is ignored or held back in everything that is started here: a preemption is not noticed, and "
                "training is killed without its last snapshot",
                _HOW,
            )
    return ok("SIGTERM reaches what is started here")


def judge_ignored(ignored: Iterable[signal.Signals]) -> Finding:
    """Of the signals that everything started here ignores."""
    names = sorted(number.name for number in ignored)
    if "SIGCHLD" in names:
        return problem("SIGCHLD is ignored here, so the death of a process is never told to its parent", _HOW)
    if "SIGUSR1" in names:
        return warning("SIGUSR1 is ignored here, and the advance warning of many a scheduler is that", _HOW)
    if names:
        return note(f"ignored here: {', '.join(names)}, as under nohup or in the background of a shell")
    return ok("no signal that matters is ignored")


def _parent_death(_world: World) -> Finding:
    """A child forks a grandchild that is to die with it, and dies. The pipe ends when both are gone."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _parent_of_one(writing)
    os.close(writing)
    try:
        grandchild = int(os.read(reading, 64))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ended, _, _ = select.select([reading], [], [], _PATIENCE)
        if ended:
            return ok("processes die with their parent")
        os.kill(grandchild, signal.SIGKILL)
    finally:
        os.close(reading)
    return problem(
        "a process that asked to die with its parent went on: workers would outlive a supervisor that is killed",
        "use a kernel or container runtime that has prctl(PR_SET_PDEATHSIG)",
    )


def _parent_of_one(writing: int) -> NoReturn:
    try:
        parent = os.getpid()
        if os.fork() == 0:
            die_with_parent(parent)
            os.write(writing, str(os.getpid()).encode())
            time.sleep(600)
        time.sleep(600)
    finally:
        os._exit(1)


def _subreaper(_world: World) -> Finding:
    """A child that forks and leaves: its orphan must become ours."""
    adopt_orphans()
    child = os.fork()
    if child == 0:
        _leave_an_orphan()
    os.waitpid(child, 0)
    adopted = _waits(lambda: bool(children()))
    for orphan in children() if adopted else []:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
    if adopted:
        return ok("orphans of a worker are adopted, and can be ended")
    return problem(
        "orphans cannot be adopted: what a dead worker has started would keep its memory and its GPU",
        "use a kernel or container runtime that has prctl(PR_SET_CHILD_SUBREAPER) and a /proc of its own",
    )


def _leave_an_orphan() -> NoReturn:
    try:
        if os.fork() == 0:
            # should it not be adopted, it ends by itself
            signal.alarm(int(_PATIENCE) + 1)
            signal.pause()
    finally:
        os._exit(0)


def _waits(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + _PATIENCE / 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


CHECKS = (
    Check("signals.sigterm", "whether SIGTERM reaches processes", _sigterm),
    Check("signals.ignored", "signals that are ignored", lambda world: judge_ignored(world.ignored)),
    Check("signals.parent_death", "whether processes die with their parent", _parent_death),
    Check("signals.orphans", "whether orphans are adopted", _subreaper),
)
