"""Starting real runs, doing things to them, and looking at what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from resilient.drill.faults import Target
from resilient.protocol.metrics_log import Entry, read_metrics, series
from resilient.protocol.paths import RunPaths
from resilient.snapshot.compare import first_difference
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.lying import whole_image
from resilient.supervisor.journal import read_journal

SCRIPT = Path(__file__).with_name("train_small.py")
TIMEOUT = 120.0
_TOKEN = "RESILIENT_TEST_TOKEN"


@dataclass
class Workspace:
    """A directory of its own for a test, and a mark in the environment of every process that it starts.

    :param variables: further ones for that environment.
    """

    directory: Path
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, run_id: str, *settings: str, steps: int = 60, conf: str = "small", ranks: int = 1) -> RunCase:
        return RunCase(self, run_id, [f"train.steps={steps}", *settings], conf, ranks)

    def environment(self) -> dict[str, str]:
        ours = {_TOKEN: self.token, "RESILIENT_RUNS": str(self.directory / "runs")}
        return {**os.environ, **ours, **self.variables}

    def processes(self) -> list[psutil.Process]:
        """Every live process that the test started, at whatever remove."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_TOKEN) == self.token and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                continue
        return found

    def wait_until_alone(self, seconds: float = 20.0) -> list[psutil.Process]:
        """Give what is ending time to end; returns what is left."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


@dataclass
class RunCase:
    """One run of a small training script.

    :param conf: name of its configuration.
    :param ranks: how many the configuration says that there are.
    :param program: what Python is to run as ``resilient``.
    """

    workspace: Workspace
    run_id: str
    settings: Sequence[str]
    conf: str = "small"
    ranks: int = 1
    program: Sequence[str] = ("-m", "resilient")

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(self.workspace.directory / "runs", self.run_id)

    def configuration(self) -> str:
        """Its path, or the name of a built-in one."""
        return str(self.workspace.directory / "conf" / f"{self.conf}.yaml")

    def start(self, *extra: str) -> Running:
        command = [sys.executable, *self.program, "train", f"conf={self.configuration()}", f"run.id={self.run_id}"]
        command += [f"run.dir={self.workspace.directory / 'runs'}", *self.settings, *extra]
        output = (self.workspace.directory / f"{self.run_id}.out").open("ab")
        process = subprocess.Popen(
            command,
            cwd=self.workspace.directory,
            env=self.workspace.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return Running(self, process, Target(self.paths, process.pid))

    def finish(self, *extra: str) -> int:
        """Start it and wait for its end."""
        return self.start(*extra).wait()

    def output(self) -> str:
        return (self.workspace.directory / f"{self.run_id}.out").read_text(errors="replace")

    def entries(self) -> list[Entry]:
        return list(read_metrics(self.paths.metrics))

    def losses(self, rank: int = 0) -> dict[int, float]:
        return series(self.paths.metrics, "loss", rank)

    def conflicting_losses(self) -> dict[tuple[int, int], set[float]]:
        """Ranks and steps that were done more than once and did not give the same loss each time."""
        seen: dict[tuple[int, int], set[float]] = {}
        for entry in self.entries():
            seen.setdefault((entry.rank, entry.metrics.step), set()).add(entry.metrics.values["loss"])
        return {place: values for place, values in seen.items() if len(values) > 1}

    def image(self, step: int, rank: int = 0) -> bytes:
        return bytes(whole_image(LocalCopy(self.paths.snapshot(step)), rank))

    def journal(self, name: str) -> list[dict[str, object]]:
        return [entry["data"] for entry in read_journal(self.paths.journal) if entry["name"] == name]

    def incidents(self) -> list[str]:
        """Classes of all incidents, in order."""
        found = [
            entry["data"]["incident"]
            for entry in read_journal(self.paths.journal)
            if "incident" in entry.get("data", {})
        ]
        return [incident["failure"]["failure_class"] for incident in found]

    def assert_equal_to(self, reference: RunCase, steps: int = 60) -> None:
        """The two runs are the same, bit for bit: every loss, and every byte of the final state."""
        for rank in range(self.ranks):
            assert self.losses(rank) == reference.losses(rank), f"rank {rank}"
            assert len(self.losses(rank)) == steps, f"rank {rank}"
            assert first_difference(self.image(steps, rank), reference.image(steps, rank)) is None, f"rank {rank}"
        assert not self.conflicting_losses()


@dataclass
class Running:
    """A supervised run that is up."""

    case: RunCase
    process: subprocess.Popen[bytes]
    target: Target

    def wait_for_step(self, step: int) -> Running:
        self.target.wait_for_step(step, alive=lambda: self.process.poll() is None)
        return self

    def wait(self) -> int:
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise AssertionError(f"{self.case.run_id} does not end; its output:\n{self.case.output()}") from None
