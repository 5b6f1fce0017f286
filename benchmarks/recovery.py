"""From a fault to the next step: ``resilient train``, ``torchrun`` and ``ft_launcher`` beside what physics allows.

    python -m benchmarks.recovery --json recovery.json

Definitions, method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.recovery_launch import Contestant, Launch, LaunchFailedError, Workload, environment
from benchmarks.recovery_log import Line, step_times
from benchmarks.recovery_report import Figures, machine, report, summaries
from benchmarks.recovery_run import differing_losses, strike_and_wait
from benchmarks.recovery_scenario import Scenario, missing, scenarios

_FIRST_FAULT, _NEXT_FAULT = 15, 10  # steps before one, at the least
_SCENARIOS = ("kill", "group", "hang", "nodes")
_STEP_SECONDS = 0.02  # they are spread over about one step


class Benchmark:
    """Measures all contestants of one scenario in turns, in folders of their own below ``folder``."""

    def __init__(self, scenario: Scenario, options: argparse.Namespace, folder: Path) -> None:
        self.figures = Figures()
        self._scenario = scenario
        self._runs: int = options.runs
        self._peer_runs: int = options.peer_runs or options.runs
        self._faults_per_launch: int = options.faults_per_launch
        self._workload = Workload(
            options.save_every, scenario.ranks, options.workers, options.threads, seed=options.seed
        )
        self._random = random.Random(options.seed)
        self._folder = folder
        self._launches = 0
        self._struck: list[list[Line]] = [[] for _ in range(scenario.ranks)]  # steps whose losses are compared, by rank

    def measure(self) -> None:
        """The whole of it."""
        done = 0
        while done < self._runs:
            faults = min(self._faults_per_launch, self._runs - done)
            for contestant in self._scenario.contestants:
                runs = self._runs if contestant.under == "resilient" else self._peer_runs
                if done < runs:
                    self._measure_launch(contestant, done, min(faults, runs - done))
            if done < self._peer_runs:
                self._measure_floors(faults)
            done += faults
        self._compare_losses()

    def _measure_launch(self, contestant: Contestant, done: int, faults: int) -> None:
        number = 0
        while number < faults:
            with self._launch(contestant) as launch:
                recovered = True
                first = True
                while recovered and number < faults:
                    recovered = self._strike(launch, done + number, first=first)
                    number, first = number + 1, False
                if recovered:
                    self.figures.memory.setdefault(contestant.name, []).append(launch.memory() / 2**20)
            self.figures.step_times.setdefault(contestant.name, []).extend(step_times(launch.reader.steps()))
            self.figures.problems += [f"{contestant.name} left behind {left}" for left in launch.left_behind]
            if contestant.under == "resilient":
                for steps, reader in zip(self._struck, launch.readers, strict=True):
                    steps.extend(reader.steps())

    def _strike(self, launch: Launch, number: int, *, first: bool) -> bool:
        """One fault; whether the contestant came back."""
        name = launch.contestant.name
        least = _FIRST_FAULT if first else _NEXT_FAULT
        self.figures.attempts[name] = self.figures.attempts.get(name, 0) + 1
        try:
            found = strike_and_wait(
                launch,
                self._scenario.number,
                self._random.randrange(self._scenario.ranks),
                more_steps=least + self._random.randrange(2 * self._workload.save_every),
                delay=_STEP_SECONDS * self._random.random(),
                save_every=self._workload.save_every,
                timeout=self._scenario.timeout,
            )
        except LaunchFailedError as error:
            self.figures.lost.append(f"{name}: {error}")
            print(f"{name}, run {number + 1}: NOT RECOVERED", flush=True)
            return False
        self.figures.recoveries.append(found)
        seconds = f"{found.new_step:.3f} s to step {found.last_step + 1}, {found.repeated} repeated"
        print(f"{name}, run {number + 1}: {seconds} {found.problem}", flush=True)
        if found.problem:
            self.figures.problems.append(f"{name}: {found.problem}")
        return True

    def _launch(self, contestant: Contestant, steps: int | None = None) -> Launch:
        self._launches += 1
        folder = self._folder / f"{self._launches:03d}-{contestant.under}"
        return Launch(contestant, self._workload, folder, steps=steps)

    def _measure_floors(self, runs: int) -> None:
        surroundings = environment(self._workload.threads)
        for _ in range(runs):
            before = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], check=True, env=surroundings)
            self.figures.cold_starts.append(time.perf_counter() - before)
        arguments = ["-m", "benchmarks.recovery_floor", f"--runs={runs}", f"--threads={self._workload.threads}"]
        found = subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, env=surroundings, cwd=self._folder
        )
        self.figures.floors += json.loads(found.stdout)

    def _compare_losses(self) -> None:
        """Resume is to be bit-exact: run once without a fault, and compare every loss of every rank."""
        last = max(line.step for steps in self._struck for line in steps)
        with self._launch(self._scenario.contestants[0], steps=last) as launch:
            code = launch.wait_for_end()
        if code:
            self.figures.problems.append(f"the uninterrupted run ended with exit code {code}")
        for reader, struck in zip(launch.readers, self._struck, strict=True):
            compared, differing = differing_losses(reader.steps(), struck)
            self.figures.compared += compared
            if differing or compared < len(struck):
                self.figures.problems.append(f"{compared} losses compared; steps that differ: {differing}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    body: dict[str, Any] = {
        "machine": surroundings,
        "options": {key: value for key, value in vars(options).items() if key not in ("json", "folder")},
        "scenarios": {},
    }
    if (reason := missing()) is not None:
        print(f"ft_launcher is NOT MEASURED: {reason}", flush=True)
    problems = 0
    for scenario in scenarios(options.scenario, options.override):
        print(f"\n=== {scenario.name}: {scenario.number.name} to one of {scenario.ranks}", flush=True)
        with tempfile.TemporaryDirectory(prefix="recovery-", dir=options.folder) as folder:
            benchmark = Benchmark(scenario, options, Path(folder))
            benchmark.measure()
        figures = benchmark.figures
        print("\n" + "\n".join(report(figures)), flush=True)
        problems += len(figures.problems)
        found = {name: asdict(item) for name, item in summaries(figures).items()}
        body["scenarios"][scenario.name] = {"summary": found, "figures": asdict(figures)}
        if options.json is not None:
            options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return 1 if problems else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--scenario", action="append", choices=_SCENARIOS, help="repeatable (default: all, in this order)"
    )
    parser.add_argument("--runs", type=int, default=10, help="faults of each contestant (default: %(default)s)")
    parser.add_argument("--peer-runs", type=int, help="of each but resilient, where there are to be fewer")
    parser.add_argument(
        "--faults-per-launch", type=int, default=5, help="before it is started anew (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every", type=int, default=10, help="steps between the others' checkpoints (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the model and of the moments of the faults (default: %(default)s)"
    )
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="of resilient's configuration; repeatable"
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's place for temporary files)")
    options = parser.parse_args(arguments)
    options.scenario = options.scenario or list(_SCENARIOS)
    if min(options.runs, options.faults_per_launch, options.save_every) < 1:
        parser.error("--runs, --faults-per-launch and --save-every must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
