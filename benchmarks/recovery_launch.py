"""The contestants: how each is started, killed and brought to an end with nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
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

from benchmarks.peers import PEERS
from benchmarks.recovery_log import Line, StepReader
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journals
from resilient.supervisor.memory import RunMemory

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = ROOT / "benchmarks" / "recovery_train.py"
TOKEN = "RECOVERY_BENCHMARK_LAUNCH"  # noqa: S105  no secret: it is in the environment of all that a launch starts, by which it is found
_RUN = "recovery"


@dataclass(frozen=True)
class Workload:
    """What the script is told; the same for all contestants.

    :param save_every: steps between two checkpoints under everything but resilient.
    :param ranks: processes; more than one train with ``DistributedDataParallel`` over gloo.
    """

    save_every: int = 10
    ranks: int = 1
    workers: int = 0
    threads: int = 1
    seed: int = 0

    def arguments(self, under: str, folder: Path, steps: int | None) -> list[str]:
        given = {
            "under": under,
            "record": folder / "steps",
            "checkpoint": folder / "checkpoint.pt",
            "save-every": self.save_every,
            "steps": 1_000_000 if steps is None else steps,
            "data-workers": self.workers,  # ft_launcher takes `--workers` for an option of its own
            "threads": self.threads,
            "seed": self.seed,
        }
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Contestant:
    """One way to keep the script running.

    :param command: the command for a folder of its own, the number of ranks, and the script's arguments.
    """

    name: str
    under: str
    command: Callable[[Path, int, list[str]], list[str]]


def resilient(overrides: Sequence[str] = ()) -> Contestant:
    """``resilient train`` with its own defaults, except for a budget of restarts that lets a benchmark kill at will."""

    def command(folder: Path, ranks: int, arguments: list[str]) -> list[str]:
        configuration = {
            "worker": {"script": str(_SCRIPT), "args": arguments, **({"ranks": ranks} if ranks > 1 else {})},
            "run": {"id": _RUN, "dir": str(folder / "runs")},
            "restarts": {"intensity": 250},
        }
        conf = folder / "recovery.yaml"
        conf.write_text(json.dumps(configuration))  # JSON is YAML
        return [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}", *overrides]

    return Contestant("resilient", "resilient", command)


def torchrun(name: str = "torchrun", *options: str) -> Contestant:
    def command(folder: Path, ranks: int, arguments: list[str]) -> list[str]:  # noqa: ARG001  no files of its own
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        return [*launcher, "--max-restarts=1000", *options, str(_SCRIPT), *arguments]

    return Contestant(name, "torchrun", command)


def ft_launcher(*options: str) -> Contestant:
    """NVIDIA's launcher, in an environment of its own; the script sends its rank monitor a heartbeat each step."""

    def command(folder: Path, ranks: int, arguments: list[str]) -> list[str]:  # noqa: ARG001  no files of its own
        launcher = [str(PEERS["nvrx"].folder / "bin" / "ft_launcher"), f"--nproc-per-node={ranks}"]
        rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        return [*launcher, *rendezvous, "--max-restarts=1000", *options, str(_SCRIPT), *arguments]

    return Contestant("ft_launcher", "ft_launcher", command)


def of_nodes(contestant: Contestant, nodes: int) -> Contestant:
    """The same on several nodes with one rank each, all of them on this machine."""

    def command(folder: Path, ranks: int, arguments: list[str]) -> list[str]:
        one = contestant.command(folder, ranks // nodes, arguments)
        if contestant.under == "resilient":
            one += [f"nodes={nodes}", "group.address=127.0.0.1"]
        else:
            launcher = one.index("--standalone") if "--standalone" in one else one.index("--rdzv-backend=c10d")
            place = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{_free_port()}"]
            known = {"--standalone", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"}
            rest = [part for part in one[launcher:] if part not in known]
            one = [*one[:launcher], *place, "--rdzv-id=recovery", *rest]
        return [sys.executable, "-m", "benchmarks.recovery_nodes", str(nodes), *one]

    return Contestant(contestant.name, contestant.under, command)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class LaunchFailedError(RuntimeError):
    """The contestant ended, or made no step in time; the message has the end of what it printed."""


class Launch:
    """A contestant at work in a folder of its own; leaving the ``with`` block ends all that it started."""

    def __init__(self, contestant: Contestant, workload: Workload, folder: Path, steps: int | None) -> None:
        folder.mkdir(parents=True)
        self.contestant = contestant
        self.folder = folder
        self.readers = [StepReader(folder / f"steps-{rank}") for rank in range(workload.ranks)]
        self.left_behind: list[str] = []
        self._paths = RunPaths.of(folder / "runs", _RUN)
        self._token = uuid.uuid4().hex
        self._output = folder / "output.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                contestant.command(folder, workload.ranks, workload.arguments(contestant.under, folder, steps)),
                cwd=folder,
                env=environment(workload.threads) | {TOKEN: self._token},
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

    @property
    def reader(self) -> StepReader:
        """Rank 0's record. No rank can complete a step without the others."""
        return self.readers[0]

    def wait(self, reached: Callable[[list[Line]], bool], timeout: float = 120.0) -> None:
        """Follow the records until ``reached`` says yes to rank 0's steps.

        :raises LaunchFailedError: the contestant ended before, or time is up.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.poll()
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
        self.poll()
        return code

    def poll(self) -> None:
        for reader in self.readers:
            reader.poll()

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
        while (left := processes_of(self._token)) and time.monotonic() < deadline:
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
        for process in processes_of(self._token):
            with suppress(psutil.NoSuchProcess):
                held += process.memory_full_info().pss
        return held

    def journal(self) -> list[dict[str, Any]]:
        """What resilient's supervisor wrote down; empty under the others."""
        return list(read_journals(self._paths))

    def _words(self) -> str:
        return self._output.read_text(errors="replace")[-800:]


def processes_of(token: str) -> list[psutil.Process]:
    """All processes of a launch, in whatever session and under whatever parent."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def environment(threads: int) -> dict[str, str]:
    """The environment of everything that is measured."""
    paths = [str(ROOT), str(ROOT / "examples" / "bytelm")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
