"""Training runs as jobs of a real cluster, and what the tests look at afterwards."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from resilient.protocol.lock import Owner
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal
from resilient.supervisor.status import Status
from tests.run.harness import RunCase
from tests.slurm.cluster import Cluster

# Steps slow enough that SLURM, which acts about once in a second, finds the run in the middle of them.
SLOW = ("train.workers=2", "train.step_seconds=0.1")
_OVER = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


@dataclass
class Job:
    """One run, as a job.

    :param number: the job's; of one of an array, such as ``7_1``.
    """

    cluster: Cluster
    case: RunCase
    number: int | str
    output: Path

    @property
    def paths(self) -> RunPaths:
        return self.case.paths

    @property
    def state(self) -> str:
        return self.cluster.state(self.number)

    @property
    def restarts(self) -> int:
        return int(self.cluster.job(self.number).get("Restarts", "0"))

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Like the cluster's, with what the job has printed."""
        try:
            self.cluster.wait_until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- the job's output:\n{self.text()}") from None

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: max(self.case.losses(), default=0) >= step, f"step {step}")

    def wait_for_restart(self, count: int) -> None:
        """Wait until it has come back for the ``count``-th time and a supervisor is up."""
        self.wait_until(lambda: len(self.began()) > count, f"restart {count}")

    def began(self) -> list[int]:
        """The restart of each supervisor that began."""
        return [int(note["restarts"]) for note in self.notes("slurm job")]

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in read_journal(self.paths.journal) if entry["name"] == name]

    def finish(self) -> Status:
        """Wait until the job is over for good; returns the status of the run."""
        self.wait_until(lambda: self.state in _OVER, f"job {self.number} to be over")
        status = Status.read(self.paths.status)
        assert status is not None, self.text()
        return status

    def assert_ended_like(self, reference: RunCase, *, restarts: int, steps: int = 60) -> None:
        """The job is over, its run is finished and is what it should be, and every restart was seen."""
        assert self.finish().finished, self.text()
        assert self.state == "COMPLETED"
        assert self.restarts == restarts
        assert self.began() == list(range(restarts + 1))
        self.case.assert_equal_to(reference, steps)

    def phase(self) -> str:
        """What its supervisor is doing, by its own account."""
        status = Status.read(self.paths.status)
        return status.state if status is not None else ""

    def wait_for_phase(self, *phases: str) -> None:
        self.wait_until(lambda: self.phase() in phases, f"phase {' or '.join(phases)}")

    def signal(self, *options: str) -> None:
        """``scancel --signal``: nothing follows it up."""
        self.cluster.call("scancel", *options, str(self.number))

    def kill_processes(self) -> None:
        """SIGKILL to the supervisor and everything below it, as when the machine is gone."""
        owner = Owner.read(self.paths.lock)
        assert owner is not None
        supervisor = psutil.Process(owner.pid)
        for process in (supervisor, *supervisor.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def claim(self) -> int:
        """A job of the higher partition claims both nodes; returns its number at once."""
        return self.cluster.submit("true", "--nodes=2", "--partition=high", "--output=/dev/null")

    def preempt(self) -> None:
        """The same; returns when that job is over."""
        high = self.claim()
        self.wait_until(lambda: self.cluster.state(high) == "COMPLETED", f"job {high}, which preempts, to be over")


def command(case: RunCase, *settings: str) -> str:
    """The line of a batch script that trains it."""
    conf = case.workspace.directory / "conf" / f"{case.conf}.yaml"
    words = [sys.executable, "-m", "resilient", "train", f"conf={conf}", f"run.id={case.run_id}"]
    words += [f"run.dir={case.workspace.directory / 'runs'}", *case.settings, *settings]
    return shlex.join(words)


def submit(
    cluster: Cluster, case: RunCase, *options: str, settings: Sequence[str] = (), script: str = "srun {command}"
) -> Job:
    """Submit it.

    :param options: of sbatch.
    :param script: the batch script; ``{command}`` is what trains.
    """
    output = case.workspace.directory / f"{case.run_id}.out"
    environment = case.workspace.environment()
    exported = ",".join(
        [f"{name}={environment[name]}" for name in environment.keys() - os.environ.keys()]
        + [f"{name}={environment[name]}" for name in os.environ if environment[name] != os.environ[name]]
    )
    body = script.format(command=f"{command(case, *settings)}")
    common = ["--partition=low", f"--output={output}", "--open-mode=append", f"--export=ALL,{exported}"]
    number = cluster.submit(body, *common, *options, cwd=case.workspace.directory)
    return Job(cluster, case, number, output)
