"""The contestants: how each is started, killed and brought to an end with nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.recovery_log import Line, StepReader
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal
from resilient.supervisor.memory import RunMemory

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = ROOT / "benchmarks" / "recovery_train.py"
_TOKEN = "RECOVERY_BENCHMARK_LAUNCH"  # noqa: S105  no secret: it is in the environment of all that a launch starts, by which it is found
_RUN = "recovery"


@dataclass(frozen=True)
class Workload:
    """What the script is told; the same for all contestants.

    :param save_every: steps between two checkpoints under torchrun.
    """

    save_every: int = 10
    workers: int = 0
    threads: int = 1
    seed: int = 0

    def arguments(self, under: str, folder: Path, steps: int | None) -> list[str]:
        given = {
            "under": under,
            "record": folder / "steps.log",
            "checkpoint": folder / "checkpoint.pt",
            "save-every": self.save_every,
            "steps": 1_000_000 if steps is None else steps,
            "workers": self.workers,
            "threads": self.threads,
            "seed": self.seed,
        }
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Contestant:
    """One way to keep the script running.

    :param command: the command for a folder of its own and the script's arguments.
    """

    name: str
    under: str
    command: Callable[[Path, list[str]], list[str]]


def resilient(overrides: Sequence[str] = ()) -> Contestant:
    """``resilient train`` with its own defaults, except for a budget of restarts that lets a benchmark kill at will."""

    def command(folder: Path, arguments: list[str]) -> list[str]:
        configuration = {
            "worker": {"script": str(_SCRIPT), "args": arguments},
            "run": {"id": _RUN, "dir": str(folder / "runs")},
            "restarts": {"intensity": 250},
        }
        conf = folder / "recovery.yaml"
        conf.write_text(json.dumps(configuration))  # JSON is YAML
        return [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}", *overrides]

    return Contestant("resilient", "resilient", command)


def torchrun(name: str = "torchrun", *options: str) -> Contestant:
    def command(folder: Path, arguments: list[str]) -> list[str]:  # noqa: ARG001  its configuration is its command line
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        return [*launcher, "--max-restarts=1000", *options, str(_SCRIPT), *arguments]

    return Contestant(name, "torchrun", command)


class LaunchFailedError(RuntimeError):
    """The contestant ended, or made no step in time; the message has the end of what it printed."""


class Launch:
    """A contestant at work in a folder of its own; leaving the ``with`` block ends all that it started."""

    def __init__(self, contestant: Contestant, workload: Workload, folder: Path, steps: int | None) -> None:
        folder.mkdir(parents=True)
        self.contestant = contestant
        self.folder = folder
        self.reader = StepReader(folder / "steps.log")
        self.left_behind: list[str] = []
        self._paths = RunPaths.of(folder / "runs", _RUN)
        self._token = uuid.uuid4().hex
        self._output = folder / "output.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                contestant.command(folder, workload.arguments(contestant.under, folder, steps)),
                cwd=folder,
                env=environment(workload.threads) | {_TOKEN: self._token},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, reached: Callable[[list[Line]], bool], timeout: float = 120.0) -> None:
        """Follow the record until ``reached`` says yes to its steps.

        :raises LaunchFailedError: the contestant ended before, or time is up.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.reader.poll()
            if reached(self.reader.steps()):
                return
            if self._process.poll() is not None:
                raise LaunchFailedError(
                    f"{self.contestant.name} ended with {self._process.returncode}: {self._words()}"
                )
            if time.monotonic() > deadline:
                raise LaunchFailedError(f"{self.contestant.name} is not there after {timeout:g} s: {self._words()}")
            time.sleep(0.005)

    def wait_for_end(self, timeout: float = 300.0) -> int:
        """The contestant's own exit code."""
        code = self._process.wait(timeout)
        self.reader.poll()
        return code

    def stop(self, grace: float = 30.0) -> None:
        """SIGTERM to the supervisor or agent alone, then see what is left 10 s later."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        deadline = time.monotonic() + 10.0  # DataLoader workers look for their parent every 5 s
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                self.left_behind.append(f"process {process.pid}: {' '.join(process.cmdline()[:4])}")
                process.kill()
        memory = RunMemory.place(self._paths, "")
        if memory.exists():
            self.left_behind.append(f"shared memory {memory}")
            shutil.rmtree(memory)

    def memory(self) -> int:
        """Bytes held by all processes of this launch; what they share is counted once (PSS)."""
        held = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                held += process.memory_full_info().pss
        return held

    def journal(self) -> list[dict[str, Any]]:
        """What resilient's supervisor wrote down; empty under torchrun."""
        return list(read_journal(self._paths.journal))

    def _processes(self) -> list[psutil.Process]:
        """All processes of this launch, in whatever session and under whatever parent."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_TOKEN) == self._token and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def _words(self) -> str:
        return self._output.read_text(errors="replace")[-2000:]


def environment(threads: int) -> dict[str, str]:
    """The environment of everything that is measured."""
    paths = [str(ROOT), str(ROOT / "examples" / "bytelm")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
