"""Faults of the processes around a run: its helpers, the whole tree at once, and processes that stand still.

Processes are found by what they run, below the supervisor, so that a number that was used again is never hit.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import psutil

from resilient.drill.faults import Fault, Target
from resilient.errors import ResilientError
from resilient.protocol.board import Word
from resilient.supervisor.memory import RunMemory


class Role(str, Enum):
    """What a process of a run is there for."""

    SUPERVISOR = "supervisor"
    FORKSERVER = "forkserver"
    WORKER = "worker"
    DATA_WORKER = "data worker"
    DRAIN = "drain"
    UPLOADER = "uploader"


_MODULES = {
    Role.FORKSERVER: "resilient.worker.forkserver",
    Role.DRAIN: "resilient.supervisor.drain_process",
    Role.UPLOADER: "resilient.supervisor.upload_process",
}


def processes_of(target: Target, role: Role) -> list[psutil.Process]:
    """The live processes of ``role``, by number; none while there are none."""
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(target.supervisor)
        if role is Role.SUPERVISOR:
            found = [supervisor]
        elif role in _MODULES:
            found = [child for child in supervisor.children() if _runs(child, _MODULES[role])]
        else:
            servers = [child for child in supervisor.children() if _runs(child, _MODULES[Role.FORKSERVER])]
            found = [worker for server in servers for worker in _children(server)]
            if role is Role.DATA_WORKER:
                found = [loading for worker in found for loading in _children(worker)]
    return sorted((process for process in found if _is_up(process)), key=lambda process: process.pid)


def tree_of(target: Target) -> list[psutil.Process]:
    """The supervisor and everything below it, parents first."""
    with suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(target.supervisor)
        return [supervisor, *supervisor.children(recursive=True)]
    return []


@dataclass(frozen=True)
class KillRole(Fault):
    """A signal to one process of a role.

    :param index: which of them, by process number; counted round if there are fewer.
    """

    role: Role
    number: signal.Signals = signal.SIGKILL
    index: int = 0
    name = "kill_role"

    def inject(self, target: Target) -> str:
        process = _one(target, self.role, self.index)
        _signal([process], self.number)
        return f"{self.number.name} to the {self.role.value} (process {process.pid}) {_when(target)}"


@dataclass(frozen=True)
class StopThenContinue(Fault):
    """A process stands still for a while, as on a machine that swaps, or under a debugger.

    It is continued by a thread of the caller, which must live for so long.
    """

    role: Role
    seconds: float = 1.0
    index: int = 0
    name = "stop_then_continue"

    def inject(self, target: Target) -> str:
        process = _one(target, self.role, self.index)
        _signal([process], signal.SIGSTOP)
        threading.Timer(self.seconds, _signal, ([process], signal.SIGCONT)).start()
        return f"the {self.role.value} (process {process.pid}) stands still for {self.seconds:g} s {_when(target)}"


@dataclass(frozen=True)
class SignalEverything(Fault):
    """One signal to every process of the run at once: SIGKILL as when a container is removed, SIGTERM as schedulers
    send it to a job.
    """

    number: signal.Signals = signal.SIGKILL
    name = "signal_everything"

    def inject(self, target: Target) -> str:
        tree, when = tree_of(target), _when(target)
        _signal(tree, self.number)
        return f"{self.number.name} to all {len(tree)} processes {when}"


@dataclass(frozen=True)
class PreemptTwice(Fault):
    """SIGTERM to the supervisor, and once more ``gap`` seconds later: schedulers repeat themselves."""

    gap: float = 0.05
    name = "preempt_twice"

    def inject(self, target: Target) -> str:
        supervisor, when = _one(target, Role.SUPERVISOR, 0), _when(target)
        _signal([supervisor], signal.SIGTERM)
        time.sleep(self.gap)
        _signal([supervisor], signal.SIGTERM)
        return f"SIGTERM to the supervisor {when}, and again {self.gap:g} s later"


@dataclass(frozen=True)
class LoseMemory(Fault):
    """The machine is switched off and on again: every process is gone, and so is what was in memory.

    :param disk: and another machine comes in its place: local snapshots are gone too.
    """

    disk: bool = False
    name = "lose_memory"

    def inject(self, target: Target) -> str:
        tree, when = tree_of(target), _when(target)
        _signal(tree, signal.SIGKILL)
        while any(_is_up(process) for process in tree):
            time.sleep(0.002)
        shutil.rmtree(RunMemory.place(target.paths, target.memory_dir), ignore_errors=True)
        shutil.rmtree(target.paths.memory, ignore_errors=True)
        if self.disk:
            shutil.rmtree(target.paths.snapshots, ignore_errors=True)
        return f"all {len(tree)} processes and memory{' and local snapshots' if self.disk else ''} lost {when}"


def _one(target: Target, role: Role, index: int) -> psutil.Process:
    found = processes_of(target, role)
    if not found:
        raise ResilientError(f"{target.paths.run_id} has no {role.value} at the moment")
    return found[index % len(found)]


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _children(process: psutil.Process) -> Sequence[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children()
    return ()


def _runs(process: psutil.Process, module: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        return module in process.cmdline()
    return False


def _is_up(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        # another process's child that was killed stays a zombie until it is reaped
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
    return False


def _when(target: Target) -> str:
    return f"after step {target.read(Word.STEP)}"
