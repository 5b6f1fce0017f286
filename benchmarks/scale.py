"""One supervisor with very many ranks, and one leader with very many nodes: what they cost, and how soon they notice.

    python -m benchmarks.scale --ranks 256 --nodes 1000 --json scale.json

The ranks are processes that only write their boards; the other nodes are connections that say what a node would say.
The supervisor is the real one. And what two nodes that really train take. Definitions stand in
``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recovery_report import machine
from benchmarks.scale_journal import JournalTail
from benchmarks.scale_members import Members
from benchmarks.scale_training import two_nodes
from resilient.config import load
from resilient.nodes.agreed_version import agreed_version
from resilient.protocol.paths import RunPaths
from resilient.protocol.terms import Terms

_STUB = Path(__file__).with_name("scale_stub.py")
_PRELOAD = [f"resilient.protocol.{name}" for name in ("board", "environment", "plan")]  # as torch is, otherwise
_OWN_PRELOAD = "resilient.worker.attach"  # what the forkserver imports beside that, torch with it
_PATIENCE = 120.0
_FLOORS = 3  # how often the floor is measured
# The stubs go on from nothing, so a round that is cut soon makes no progress; nothing is to end or to wait for that.
_BUDGET = (
    "restarts.intensity=200",
    "restarts.max_failures=200",
    "restarts.crash_loop=200",
    "restarts.first_wait=0",
)


@contextmanager
def supervised(folder: Path, *overrides: str, step_seconds: float) -> Iterator[tuple[psutil.Process, RunPaths, str]]:
    """A run of the stub, its supervisor, and the path of its configuration; ended afterwards."""
    conf = folder / "scale.yaml"
    worker = {"script": str(_STUB), "args": [str(step_seconds)], "preload": _PRELOAD}
    body = {"worker": worker, "run": {"dir": str(folder / "runs")}, "snapshot": {"auto": False}}
    conf.write_text(json.dumps(body))
    command = [sys.executable, "-m", "resilient", "train", f"conf={conf}", *overrides]
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True)
    try:
        yield psutil.Process(process.pid), RunPaths.of(folder / "runs", "scale"), str(conf)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], what: str, supervisor: psutil.Process | None = None) -> None:
    """:raises RuntimeError: it takes too long, or the supervisor that should bring it about has ended."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if supervisor is not None and supervisor.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"{what}: never, for the supervisor has ended")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not after {_PATIENCE:g} s")
        time.sleep(0.02)


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile in milliseconds."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))]
    return {f"{name}_ms": 1000 * statistics.median(ordered), f"{name}_p90_ms": 1000 * high}


def cost(supervisor: psutil.Process, seconds: float, meanwhile: Callable[[float], None]) -> dict[str, float]:
    """What the supervisor takes of one core, and of memory, while nothing happens."""
    before, began = supervisor.cpu_times(), time.monotonic()
    meanwhile(seconds)
    after, took = supervisor.cpu_times(), time.monotonic() - began
    return {"core_percent": _percent(before, after, took), "rss_mib": supervisor.memory_info().rss / 2**20}


def _percent(before: Any, after: Any, seconds: float) -> float:
    """Of one core, between two readings of a process's times."""
    return float(100 * (after.user + after.system - before.user - before.system) / seconds)


def many_ranks(folder: Path, ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """One node with so many ranks, of which one is killed, again and again."""
    noticed, gone, planned, relaunched = [], [], [], []
    with supervised(folder, f"worker.ranks={ranks}", *_BUDGET, step_seconds=options.step_seconds) as run:
        supervisor, paths, _ = run
        journal = JournalTail(paths.journal)
        wait_for(lambda: journal.count("worker launched") == ranks, "all ranks are launched", supervisor)
        time.sleep(3 * options.step_seconds)
        found: dict[str, Any] = cost(supervisor, options.seconds, time.sleep)
        for number in range(options.faults):
            launched = journal.entries("worker launched")
            victim = launched[-1 - number % ranks]
            struck = time.time()
            os.kill(int(victim["pid"]), signal.SIGKILL)
            wait_for(lambda: journal.count("worker launched", struck) == ranks, "all are there again", supervisor)  # noqa: B023
            first, last = _moments(journal.entries(since=struck), struck)
            noticed.append(first["worker exited"])
            gone.append(last["worker exited"])
            planned.append(first["LaunchRound"])
            relaunched.append(last["worker launched"])
            time.sleep(2 * options.step_seconds)
    return {
        **found,
        **spread("noticed", noticed),
        **spread("all_gone", gone),
        **spread("floor_all_gone", [_floor(ranks) for _ in range(_FLOORS)]),
        **spread("planned", planned),
        **spread("all_relaunched", relaunched),
    }


def _moments(entries: Sequence[dict[str, Any]], struck: float) -> tuple[dict[str, float], dict[str, float]]:
    """When each kind of entry came first, and when last, in seconds after the fault."""
    last = {entry["name"]: entry["time"] - struck for entry in entries}
    first = {entry["name"]: entry["time"] - struck for entry in reversed(entries)}
    return first, last


def _floor(ranks: int) -> float:
    """What the kernel takes to end as many processes, without any supervisor."""
    command = [sys.executable, "-m", "benchmarks.scale_floor", str(ranks), *_PRELOAD, _OWN_PRELOAD]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def many_nodes(folder: Path, nodes: int, options: argparse.Namespace) -> dict[str, Any]:
    """A leader with so many other nodes, of which one is lost, again and again."""
    losses, told_first, told_last, planned = options.faults, [], [], []
    wanted = [f"nodes={nodes + 1 - losses}:{nodes + 1}", "group.address=127.0.0.1", *_BUDGET]
    # The members have no memory that anything could be copied to, and are one process that has as much to do as all.
    wanted += ["peer.enabled=false", "group.silent_seconds=60"]
    with supervised(folder, "worker.ranks=1", *wanted, step_seconds=options.step_seconds) as run:
        supervisor, paths, conf = run
        wait_for(
            lambda: paths.terms.is_dir() and Terms(paths.terms).newest() is not None, "the leader leads", supervisor
        )
        term, journal = Terms(paths.terms).newest(), JournalTail(paths.journal)
        if term is None:
            raise RuntimeError("nobody leads")
        config = load(conf, ["worker.ranks=1", *wanted]).config
        members = Members(term, agreed_version(config.worker, config.snapshot, config.train), options.step_seconds)
        began = time.monotonic()
        members.join(nodes)
        want = nodes - losses
        members.serve(_PATIENCE, lambda: sum(member.training for member in members.members) >= want)
        formed = time.monotonic() - began
        members.serve(3 * options.step_seconds)
        used = psutil.Process().cpu_times()
        found: dict[str, Any] = cost(supervisor, options.seconds, members.serve)
        found["stubs_core_percent"] = _percent(used, psutil.Process().cpu_times(), options.seconds)
        for _ in range(losses):
            training = [member for member in members.members if member.training]
            lost, struck = training[len(training) // 2], time.time()
            moment = members.lose(lost)
            others = [member for member in training if member is not lost]
            members.serve(_PATIENCE, lambda: all(m.killed_at > moment for m in others))  # noqa: B023
            told_first.append(min(member.killed_at for member in others) - moment)
            told_last.append(max(member.killed_at for member in others) - moment)
            members.serve(_PATIENCE, lambda: sum(member.training for member in members.members) >= want)
            wait_for(lambda: journal.count("LaunchRound", struck) > 0, "the plan is written", supervisor)  # noqa: B023
            planned.append(journal.entries("LaunchRound", struck)[0]["time"] - struck)
            members.serve(2 * options.step_seconds)
    return {
        **found,
        "joined_and_formed_s": formed,
        **spread("first_told", told_first),
        **spread("all_told", told_last),
        **spread("planned", planned),
    }


def training(folder: Path, milliseconds: int, options: argparse.Namespace) -> dict[str, Any]:
    """Two nodes that train with steps of so many milliseconds."""
    return two_nodes(folder, milliseconds, options.seconds, wait_for, ranks=options.training_ranks)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 256], help="on one node (default: 1 256)")
    parser.add_argument(
        "--nodes", type=int, nargs="*", default=[10, 1000], help="beside the leader's (default: 10 1000)"
    )
    parser.add_argument(
        "--training", type=int, nargs="*", default=[100], help="milliseconds of a step of two nodes (default: 100)"
    )
    parser.add_argument("--training-ranks", type=int, default=2, help="of each of the two (default: %(default)s)")
    parser.add_argument("--step-seconds", type=float, default=1.0, help="of a step of a stub (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=5, help="in each run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which the cost is measured")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    body: dict[str, Any] = {"machine": machine(), "training": {}, "ranks": {}, "nodes": {}}
    print("; ".join(f"{name}: {value}" for name, value in body["machine"].items()), flush=True)
    kinds: list[tuple[str, list[int], Callable[..., dict[str, Any]]]] = [
        ("training", options.training, training),
        ("ranks", options.ranks, many_ranks),
        ("nodes", options.nodes, many_nodes),
    ]
    for kind, counts, measure in kinds:
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="scale-") as folder:
                found = measure(Path(folder), count, options)
            body[kind][str(count)] = found
            told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(f"{count} {kind}: {told}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
