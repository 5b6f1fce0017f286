"""Runs of several nodes, each of them a supervisor of its own on this machine, and what is done to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from resilient.protocol.metrics_log import Entry, read_metrics
from resilient.protocol.paths import NODE, RunPaths
from resilient.snapshot.compare import first_difference
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.lying import whole_image
from resilient.supervisor.journal import read_journal
from resilient.supervisor.memory import RunMemory
from tests.run.harness import RunCase, Workspace

TIMEOUT = 200.0
QUICK = ("group.silent_seconds=5", "group.lease_seconds=5", "group.address=127.0.0.1")


@dataclass
class Nodes:
    """One run on several nodes.

    :param per_node: ranks of each.
    :param prefix: of the command of each node, such as what enters its network.
    :param own: settings of each node alone.
    """

    workspace: Workspace
    run_id: str
    settings: Sequence[str] = ()
    names: Sequence[str] = ("n1", "n2")
    conf: str = "ranks"
    per_node: int = 1
    prefix: dict[str, Sequence[str]] = field(default_factory=dict)
    own: dict[str, Sequence[str]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(self.workspace.directory / "runs", self.run_id)

    @property
    def train(self) -> int:
        """How many nodes train; others are spares."""
        return 2

    @property
    def world(self) -> int:
        return self.per_node * self.train

    def leader(self) -> str:
        """The node that leads, or led last."""
        claims = sorted(self.paths.terms.glob("*.json"))
        return str(json.loads(claims[-1].read_text())["node"])

    def entries_of(self, name: str) -> list[Entry]:
        """The metrics that a node's ranks have reported."""
        return list(read_metrics(self.paths.root / "metrics" / f"{name}.jsonl"))

    # --- what is done

    def start(self, *names: str) -> Nodes:
        """Start the supervisors of these nodes, of all by default."""
        for name in names or self.names:
            wanted = [
                f"nodes={self.train}",
                f"worker.ranks={self.per_node}",
                *QUICK,
                *self.settings,
                *self.own.get(name, ()),
            ]
            program = [sys.executable, "-m", "resilient", "train", f"conf={self._configuration()}"]
            place = [f"run.id={self.run_id}", f"run.dir={self.workspace.directory / 'runs'}"]
            with self._output(name).open("ab") as output:
                self.processes[name] = subprocess.Popen(
                    [*self.prefix.get(name, ()), *program, *place, *wanted],
                    cwd=self.workspace.directory,
                    env={**self.workspace.environment(), NODE: name, "OMP_NUM_THREADS": "1"},  # as on one node
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self

    def _configuration(self) -> Path:
        return self.workspace.directory / "conf" / f"{self.conf}.yaml"

    def _output(self, name: str) -> Path:
        return self.workspace.directory / f"{self.run_id}-{name}.out"

    def wait_for_step(self, step: int, rank: int = 0) -> Nodes:
        """Return when the rank has reported that step, or a later one, in whatever round."""
        return self._wait_for(lambda entry: entry.rank == rank and entry.metrics.step >= step, f"step {step}")

    def wait_for_round(self, number: int) -> Nodes:
        """Return when a rank has reported a step of that round, or of a later one."""
        return self._wait_for(lambda entry: entry.round >= number, f"round {number}")

    def _wait_for(self, reported: Callable[[Entry], bool], what: str) -> Nodes:
        deadline = time.monotonic() + TIMEOUT
        while not any(map(reported, self.entries())):
            ended = {name: process.poll() for name, process in self.processes.items()}
            assert None in ended.values(), f"all have ended: {ended}\n{self.output()}"
            assert time.monotonic() < deadline, f"{what} is not reached\n{self.output()}"
            time.sleep(0.05)
        return self

    def wait(self, *names: str) -> list[int]:
        """Exit codes of these nodes' supervisors, of all by default."""
        deadline = time.monotonic() + TIMEOUT
        codes = []
        for name in names or self.names:
            try:
                codes.append(self.processes[name].wait(max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                output = self.output()
                for process in self.processes.values():
                    process.kill()
                raise AssertionError(f"{name} does not end\n{output}") from None
        return codes

    def everything_of(self, name: str) -> list[psutil.Process]:
        """All processes of a node."""
        found = []
        for process in self.workspace.processes():
            try:
                if process.environ().get(NODE) == name:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def kill_node(self, name: str) -> None:
        """As if the machine had lost its power, but for what is in its memory."""
        while left := self.everything_of(name):  # one may have started another meanwhile
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.processes[name].wait(30)

    def memory_of(self, name: str) -> Path:
        """Where a node has its memory."""
        with patch.dict(os.environ, {NODE: name}):
            return RunMemory.place(self.paths, "")

    def switch_off(self, name: str) -> None:
        """The machine of a node that was killed will not be started again: its memory is gone."""
        shutil.rmtree(self.memory_of(name), ignore_errors=True)  # a start of another run may have tidied it away

    def kill_supervisor(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(30)

    def kill_rank(self, rank: int) -> None:
        os.kill(self.worker(rank), signal.SIGKILL)

    def worker(self, rank: int) -> int:
        """The process of a rank that is up."""
        found = 0
        for entry in self.journal():
            if entry["name"] == "worker launched" and entry.get("rank") == rank:
                found = int(entry["pid"])
        assert found, f"rank {rank} was never launched\n{self.output()}"
        return found

    # --- what is left

    def output(self) -> str:
        texts = {name: self._output(name) for name in self.names}
        return "\n".join(
            f"--- {name}\n{path.read_text(errors='replace')}" for name, path in texts.items() if path.exists()
        )

    def entries(self) -> list[Entry]:
        return [entry for path in sorted((self.paths.root / "metrics").glob("*.jsonl")) for entry in read_metrics(path)]

    def journal(self) -> list[dict[str, Any]]:
        """All entries of all nodes, by time."""
        found = [entry for path in (self.paths.root / "journal").glob("*.jsonl") for entry in read_journal(path)]
        return sorted(found, key=lambda entry: float(entry["time"]))

    def noted(self, name: str) -> list[dict[str, Any]]:
        return [entry["data"] for entry in self.journal() if entry["name"] == name and "data" in entry]

    def sources(self) -> list[Any]:
        """Where each round was resumed from."""
        return [launch["source"] for launch in self.noted("LaunchRound")]

    def classes(self) -> list[str]:
        """Of all incidents, in order."""
        return [body["incident"]["failure"]["failure_class"] for body in self.noted("RecordIncident")]

    def losses(self, rank: int) -> dict[int, float]:
        """By step; of repeated ones, what was reported last."""
        own = [entry.metrics for entry in self.entries() if entry.rank == rank and "loss" in entry.metrics.values]
        return {metrics.step: metrics.values["loss"] for metrics in sorted(own, key=lambda each: each.time)}

    def conflicting_losses(self) -> dict[tuple[int, int], set[float]]:
        """Ranks and steps that were done more than once and did not give the same loss each time."""
        seen: dict[tuple[int, int], set[float]] = {}
        for entry in self.entries():
            if "loss" in entry.metrics.values:
                seen.setdefault((entry.rank, entry.metrics.step), set()).add(entry.metrics.values["loss"])
        return {place: values for place, values in seen.items() if len(values) > 1}

    def image(self, step: int, rank: int) -> bytes:
        return bytes(whole_image(LocalCopy(self.paths.snapshot(step)), rank))

    def assert_equal_to(self, reference: RunCase, steps: int = 60) -> None:
        """The run is the same as one on one node, bit for bit: every loss, and every byte of the final state."""
        for rank in range(self.world):
            assert self.losses(rank) == reference.losses(rank), f"rank {rank}\n{self.output()}"
            assert len(self.losses(rank)) == steps, f"rank {rank}"
            assert first_difference(self.image(steps, rank), reference.image(steps, rank)) is None, f"rank {rank}"
        assert not self.conflicting_losses()
