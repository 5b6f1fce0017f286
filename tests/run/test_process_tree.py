"""The process tree is owned: whatever dies, nothing of the run outlives it, and nothing else is touched.

What a script starts and leaves running at its end is killed, too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient.drill.faults import KillSupervisor, KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.protocol.lock import Owner
from resilient.protocol.paths import hostname
from resilient.protocol.strays import MARK, mark
from tests.run.harness import RunCase, Running, Workspace

ZOO = Path(__file__).with_name("train_zoo.py")
_ANIMALS = 14  # the script starts so many at least
_PATIENCE = 60.0
_OURS = ("resilient.cli", "resilient.worker.forkserver", "resilient.supervisor")


class Zoo:
    """A run whose script has started one of each."""

    def __init__(self, workspace: Workspace) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._workspace = workspace
        settings = [f"worker.script={ZOO}", f"worker.args=['{workspace.directory / 'lock'}','{port}']"]
        self.case = RunCase(workspace, "zoo", settings)

    def animals(self, running: Running) -> list[psutil.Process]:
        """All processes of this round, but for the supervisor and its helpers."""
        spared = {running.process.pid, *(child.pid for child in _helpers(running))}
        return [process for process in self._workspace.processes() if process.pid not in spared]

    def wait_for_animals(self, running: Running) -> list[psutil.Process]:
        """Those of the round that is up, when all of them are there."""
        deadline = time.monotonic() + _PATIENCE
        while len(found := self.animals(running)) < _ANIMALS:
            assert time.monotonic() < deadline, (found, self.case.output())
            time.sleep(0.05)
        return found


def _helpers(running: Running) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(running.process.pid).children() if any(map(str(child.cmdline()).count, _OURS))
    ]


def forkserver(running: Running) -> psutil.Process:
    (found,) = (child for child in _helpers(running) if "resilient.worker.forkserver" in child.cmdline())
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run; the same number with another start time is another process."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Whoever kills them may not have noticed yet that it is time to; returns those that stay."""
    deadline = time.monotonic() + _PATIENCE
    while (left := alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """Siblings of the supervisor: one with the name of a helper, one that another run has left."""
    owner = Owner(1 << 22, time.time(), hostname())  # of a supervisor that is gone
    commands = {
        "resilient.worker.forkserver": {},
        "of another run": {MARK: mark("f" * 32, owner)},
    }
    started = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", name], env={**os.environ, **extra})
        for name, extra in commands.items()
    ]
    yield [psutil.Process(process.pid) for process in started]
    for process in started:
        process.kill()
        process.wait()


def test_nothing_outlives_its_round_when_worker_or_forkserver_die_or_the_run_is_preempted(
    workspace: Workspace, bystanders: list[psutil.Process]
) -> None:
    zoo = Zoo(workspace)
    running = zoo.case.start().wait_for_step(5)
    first = zoo.wait_for_animals(running)
    KillWorker().inject(running.target)
    assert not wait_until_gone(first)
    second = zoo.wait_for_animals(running)
    forkserver(running).kill()
    assert not wait_until_gone(second)
    zoo.wait_for_animals(running)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, zoo.case.output()
    assert not workspace.processes(), "not even for a moment"
    assert alive(bystanders) == bystanders


def test_nothing_outlives_a_killed_supervisor_and_its_successor_kills_what_could(
    workspace: Workspace, bystanders: list[psutil.Process]
) -> None:
    zoo = Zoo(workspace)
    running = zoo.case.start().wait_for_step(5)
    KillSupervisor().inject(running.target)
    running.wait()
    assert not workspace.wait_until_alone()
    running = zoo.case.start().wait_for_step(10)
    left, server = zoo.animals(running), forkserver(running)
    running.process.send_signal(signal.SIGSTOP)  # so that it cannot see the other die
    server.kill()
    running.process.kill()
    running.wait()
    survivors = alive(left)
    assert zoo.case.finish() == 0, zoo.case.output()
    assert not alive(left)
    assert survivors, "else there was nothing to kill"
    assert "killed what an earlier supervisor of this run had left" in zoo.case.output()
    assert not workspace.processes(), "what the script left running at its end is killed"
    assert alive(bystanders) == bystanders
