"""What copies of memory snapshots in other nodes' memory cost: time of a step without, with, and without a pause.

    python -m benchmarks.replication --json replication.json

Two nodes are two supervisors on this machine, which share its processors and its memory: what a copy takes from
training on one node, it takes here twice. Between the launches the limits are measured: a plain copy of as many bytes
in memory, and a plain transfer of them over loopback TCP, one way and both ways at once.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recovery_launch import ROOT, environment
from benchmarks.recovery_report import machine
from resilient.protocol.paths import NODE, RunPaths
from resilient.supervisor.journal import read_journal

_SCRIPT = ROOT / "benchmarks" / "replication_train.py"
_NODES = ("n1", "n2")
_NEVER = 1_000_000_000  # steps
_PATIENCE_SECONDS = 900.0
_PIECE = 4 << 20


@dataclass(frozen=True)
class Contestant:
    """How often images are copied."""

    name: str
    peer: dict[str, Any]


OFF = Contestant("no copies", {"enabled": False})
DEFAULT = Contestant("copies, default", {})
ALWAYS = Contestant("copies, one after the other", {"every_steps": 1})
CONTESTANTS = (OFF, DEFAULT, ALWAYS)


class Benchmark:
    """Everything, in folders of its own below ``folder``."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self.steps: dict[str, list[list[float]]] = {each.name: [] for each in CONTESTANTS}  # by launch, both ranks
        self.sets: dict[str, list[list[dict[str, float]]]] = {each.name: [] for each in CONTESTANTS}
        self.limits: dict[str, list[float]] = {}  # bytes per second

    def measure(self) -> None:
        for number in range(self._options.rounds):
            turn = number % len(CONTESTANTS)
            for contestant in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
                self._launch(contestant, self._folder / f"{number}-{CONTESTANTS.index(contestant)}")
                self._measure_limits()
                found = self.steps[contestant.name][-1]
                print(f"round {number + 1}, {contestant.name}: {1e3 * statistics.median(found):.2f} ms", flush=True)

    def _launch(self, contestant: Contestant, folder: Path) -> None:
        folder.mkdir()
        options, record = self._options, folder / "steps.json"
        given = ["--mib", options.mib, "--steps", options.steps, "--milliseconds", options.milliseconds]
        configuration = {
            "worker": {"script": str(_SCRIPT), "args": [*map(str, given), "--record", str(record)]},
            "run": {"id": "replication", "dir": str(folder / "runs")},
            "snapshot": {"every_steps": _NEVER},
            "hang": {"min_seconds": _PATIENCE_SECONDS},
            "nodes": len(_NODES),
            "group": {"address": "127.0.0.1"},
            "peer": contestant.peer,
        }
        conf = folder / "replication.yaml"
        conf.write_text(json.dumps(configuration))  # JSON is YAML
        command = [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}"]
        with (folder / "output.log").open("wb") as output:
            nodes = [
                subprocess.Popen(
                    command, cwd=folder, env={**environment(1), NODE: name}, stdout=output, stderr=subprocess.STDOUT
                )
                for name in _NODES
            ]
            codes = [node.wait(_PATIENCE_SECONDS) for node in nodes]
        if any(codes):
            raise RuntimeError(f"exit codes {codes}: {(folder / 'output.log').read_text(errors='replace')[-2000:]}")
        ranks = [json.loads(record.with_suffix(f".{rank}").read_text()) for rank in range(len(_NODES))]
        self.steps[contestant.name].append([seconds for rank in ranks for seconds in rank])
        journals = (RunPaths.of(folder / "runs", "replication").root / "journal").glob("*.jsonl")
        entries = [entry for path in journals for entry in read_journal(path)]
        self.sets[contestant.name].append([entry["data"] for entry in entries if entry["name"] == "Replicated"])

    def _measure_limits(self) -> None:
        size = self._options.mib << 20
        for name, rate in (
            ("copy in memory", _copy(size)),
            ("loopback TCP, one way", _transfer(size, 1)),
            ("loopback TCP, both ways at once", _transfer(size, 2)),
        ):
            self.limits.setdefault(name, []).append(rate)

    # --- what came of it

    def report(self) -> Iterator[str]:
        for contestant in CONTESTANTS:
            launches = self.steps[contestant.name]
            medians = [1e3 * statistics.median(steps) for steps in launches]
            means = [1e3 * statistics.mean(steps) for steps in launches]
            yield (
                f"{contestant.name}: step {statistics.median(medians):.2f} ms (median; {min(medians):.2f} to "
                f"{max(medians):.2f} by launch), {statistics.median(means):.2f} ms (mean; {min(means):.2f} to "
                f"{max(means):.2f})"
            )
            if contestant is not OFF:
                yield from self._report_cost(contestant)
        for name, rates in self.limits.items():
            spread = f"{min(rates) / 1e9:.2f} to {max(rates) / 1e9:.2f}"
            yield f"limit, {name}: {statistics.median(rates) / 1e9:.2f} GB/s ({spread})"

    def _report_cost(self, contestant: Contestant) -> Iterator[str]:
        pairs = zip(self.steps[contestant.name], self.steps[OFF.name], strict=True)
        ratios = [100 * (statistics.mean(own) / statistics.mean(off) - 1) for own, off in pairs]
        spread = f"{min(ratios):+.2f} to {max(ratios):+.2f} by round"
        yield f"  cost of a mean step: {statistics.median(ratios):+.2f} % ({spread})"
        made = [sum(int(each["sets"]) for each in launch) for launch in self.sets[contestant.name]]
        yield f"  {statistics.median(made):g} sets of copies in each launch (median), at least"
        later = [each for launch in self.sets[contestant.name] for each in launch[1:]]  # the first finds no memory yet
        if later:
            rate = statistics.median(each["bytes"] / each["seconds"] for each in later)
            seconds = statistics.median(each["seconds"] for each in later)
            yield f"  {1e3 * seconds:.0f} ms each, {rate / 1e9:.2f} GB/s over both nodes (medians of {len(later)})"


def _copy(size: int) -> float:
    source, target = bytearray(size), bytearray(size)
    view = memoryview(target)
    began = time.perf_counter()
    view[:] = source
    return size / (time.perf_counter() - began)


def _transfer(size: int, ways: int) -> float:
    """Bytes per second over loopback, all ways together, from and to memory that was touched before."""
    pairs, threads = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(ways):
            near = socket.create_connection(listener.getsockname())
            pairs.append((near, listener.accept()[0]))
    source, targets = bytearray(size), [memoryview(bytearray(size)) for _ in pairs]
    for (near, far), target in zip(pairs, targets, strict=True):
        threads += [threading.Thread(target=near.sendall, args=(source,))]
        threads += [threading.Thread(target=_receive, args=(far, target))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for near, far in pairs:
        near.close()
        far.close()
    return ways * size / seconds


def _receive(connection: socket.socket, target: memoryview) -> None:
    while len(target):
        target = target[connection.recv_into(target[:_PIECE]) :]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="replication-", dir=options.folder) as folder:
        benchmark = Benchmark(options, Path(folder))
        benchmark.measure()
    print("\n".join(benchmark.report()))
    if options.json:
        body = {
            "machine": surroundings,
            "steps": benchmark.steps,
            "sets": benchmark.sets,
            "limits": benchmark.limits,
            "report": list(benchmark.report()),
        }
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replication", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="launches of each contestant (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=256, help="of state on each node (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each launch (default: %(default)s)")
    parser.add_argument("--milliseconds", type=float, default=300.0, help="of a step at least (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's place for temporary files)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
