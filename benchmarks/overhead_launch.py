"""Starting the script of the overhead benchmark, with and without resilient, and looking at what is started."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recovery_launch import ROOT, environment

_SCRIPT = ROOT / "benchmarks" / "overhead_train.py"
_NEVER = 1_000_000_000  # steps
_SETTLE_SECONDS = 3.0
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Contestant:
    """How the script is run; ``snapshot`` is None without resilient."""

    name: str
    snapshot: dict[str, Any] | None


PLAIN = Contestant("without resilient", None)
RARE = Contestant("resilient, no snapshots", {"memory_every_steps": _NEVER, "every_steps": _NEVER})
AUTOMATIC = Contestant("resilient, automatic interval", {"memory_every_steps": 0, "every_steps": _NEVER})
CONTESTANTS = (PLAIN, RARE, AUTOMATIC)


class Launch:
    """The script in a folder of its own."""

    def __init__(self, contestant: Contestant, mode: str, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True)
        self.record = folder / "record.json"
        self._output = folder / "output.log"
        given = ["--mode", mode, "--record", str(self.record), *arguments]
        if contestant.snapshot is None:
            command = [sys.executable, str(_SCRIPT), "--plain", *given]
        else:
            configuration = {
                "worker": {"script": str(_SCRIPT), "args": given},
                "run": {"id": f"overhead-{folder.name}", "dir": str(folder / "runs")},
                "snapshot": contestant.snapshot,
                "hang": {"min_seconds": _PATIENCE_SECONDS},
            }
            conf = folder / "overhead.yaml"
            conf.write_text(json.dumps(configuration))  # JSON is YAML
            command = [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}"]
        with self._output.open("wb") as output:
            self.process = psutil.Popen(
                command,
                cwd=folder,
                env=environment(1),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def result(self) -> dict[str, Any]:
        """What the script has recorded, when all has ended.

        :raises RuntimeError: it failed; the message has the end of what it printed.
        """
        code = self.process.wait(_PATIENCE_SECONDS)
        if code or not self.record.exists():
            raise RuntimeError(f"exit code {code}: {self._output.read_text(errors='replace')[-2000:]}")
        found: dict[str, Any] = json.loads(self.record.read_text())
        return found

    def wait_for_record(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.record.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not get there: {self._output.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)


def watch_idle(launch: Launch, seconds: float) -> dict[str, dict[str, float]]:
    """By process: MiB of memory and % of a core over ``seconds`` in which the worker sleeps."""
    launch.wait_for_record()
    time.sleep(_SETTLE_SECONDS)
    processes = _processes(launch.process)
    before = {name: _busy(process) for name, process in processes.items()}
    start = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - start
    found = {}
    for name, process in processes.items():
        memory = process.memory_full_info()
        found[name] = {
            "rss_mib": memory.rss / 2**20,
            "pss_mib": memory.pss / 2**20,
            "uss_mib": memory.uss / 2**20,
            "cpu_percent": 100 * (_busy(process) - before[name]) / passed,
        }
    return found


def _busy(process: psutil.Process) -> float:
    """Seconds on a core so far, of all threads, as the scheduler counts them to the nanosecond.

    The times in ``/proc/PID/stat`` are counted in ticks, and a process that a timer wakes up meets more of these than
    is its share.
    """
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def _processes(supervisor: psutil.Process) -> dict[str, psutil.Process]:
    """The supervisor, its two helpers, and the worker that the forkserver has forked."""
    found = {"supervisor": supervisor}
    for child in supervisor.children():
        name = "forkserver" if any("forkserver" in part for part in child.cmdline()) else "drain"
        found[name] = child
    for number, child in enumerate(found["forkserver"].children()):
        found[f"worker {number}"] = child
    return found
