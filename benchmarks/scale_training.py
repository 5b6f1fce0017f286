"""Two nodes that really train, and what their supervisors and those supervisors' helpers take of the processor."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recovery_launch import ROOT, environment
from resilient.protocol.paths import NODE, RunPaths
from resilient.protocol.terms import Terms

_SCRIPT = ROOT / "benchmarks" / "replication_train.py"
_NODES = ("n1", "n2")
_STEPS = 1_000_000
_HELPERS = {"replica_process": "copies", "drain_process": "drain"}


@contextmanager
def _training(
    folder: Path, mib: int, milliseconds: float, peer: dict[str, Any], ranks: int
) -> Iterator[tuple[dict[str, psutil.Process], RunPaths]]:
    """A run of two nodes; ended afterwards."""
    given = ["--mib", mib, "--steps", _STEPS, "--milliseconds", milliseconds, "--record", folder / "steps.json"]
    configuration = {
        "worker": {"script": str(_SCRIPT), "args": [*map(str, given), "--idle"], "ranks": ranks},
        "run": {"id": "scale", "dir": str(folder / "runs")},
        "snapshot": {"every_steps": _STEPS},
        "nodes": len(_NODES),
        "group": {"address": "127.0.0.1"},
        "peer": peer,
    }
    conf = folder / "scale.yaml"
    conf.write_text(json.dumps(configuration))
    command = [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}"]
    with (folder / "output.log").open("wb") as output:
        nodes = {
            name: subprocess.Popen(
                command, cwd=folder, env={**environment(1), NODE: name}, stdout=output, stderr=subprocess.STDOUT
            )
            for name in _NODES
        }
    try:
        yield {name: psutil.Process(node.pid) for name, node in nodes.items()}, RunPaths.of(folder / "runs", "scale")
    finally:
        for node in nodes.values():
            node.terminate()
        for node in nodes.values():
            try:
                node.wait(60)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def _steps(paths: RunPaths) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (paths.root / "metrics").glob("*.jsonl"))


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _used(nodes: dict[str, psutil.Process], leader: str) -> dict[str, float]:
    """Seconds of processor time that each has had."""
    found = {"leader": 0.0, "member": 0.0, **dict.fromkeys(_HELPERS.values(), 0.0)}
    for name, supervisor in nodes.items():
        found["leader" if name == leader else "member"] += _seconds(supervisor)
        for child in supervisor.children():
            line = " ".join(child.cmdline())
            for module, role in _HELPERS.items():
                if module in line:
                    found[role] += _seconds(child)
    return found


def two_nodes(
    folder: Path,
    milliseconds: float,
    seconds: float,
    wait_for: Callable[[Callable[[], bool], str], None],
    *,
    ranks: int = 2,
    mib: int = 16,
    peer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Percent of one core that each takes while all ranks train.

    :param milliseconds: of a step.
    :param ranks: of each node.
    :param mib: of each rank's state.
    """
    with _training(folder, mib, milliseconds, peer or {}, ranks) as (nodes, paths):
        wait_for(lambda: (paths.root / "metrics").is_dir() and _steps(paths) > 20 * ranks, "all ranks train")
        term = Terms(paths.terms).newest()
        if term is None:
            raise RuntimeError("nobody leads")
        before, steps, began = _used(nodes, term.node), _steps(paths), time.monotonic()
        time.sleep(seconds)
        after, done, took = _used(nodes, term.node), _steps(paths) - steps, time.monotonic() - began
    shares = {f"{role}_core_percent": 100 * (after[role] - before[role]) / took for role in before}
    return {"step_ms": 1000 * took * len(_NODES) * ranks / done, **shares}
