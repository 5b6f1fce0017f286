"""From a kill to the next step: ``resilient train`` beside ``torchrun``, and both beside what physics allows.

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

from benchmarks.recovery_launch import Contestant, Launch, LaunchFailedError, Workload, environment, resilient, torchrun
from benchmarks.recovery_log import Line, step_times
from benchmarks.recovery_report import Figures, machine, report, summaries
from benchmarks.recovery_run import differing_losses, kill_and_wait

_FIRST_KILL, _NEXT_KILL = 15, 10  # steps before a kill, at the least
_STEP_SECONDS = 0.02  # kills are spread over about one step


class Benchmark:
    """Measures all contestants in turns, in folders of their own below ``folder``."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.figures = Figures()
        self._runs: int = options.runs
        self._kills_per_launch: int = options.kills_per_launch
        self._workload = Workload(options.save_every, options.workers, options.threads, options.seed)
        self._overrides: list[str] = options.override
        self._random = random.Random(options.seed)
        self._folder = folder
        self._launches = 0
        self._killed: list[Line] = []  # all steps of the runs whose losses are compared

    @property
    def _resilient(self) -> Contestant:
        return resilient(self._overrides)

    def measure(self) -> None:
        """The whole of it.

        :raises LaunchFailedError: a contestant did not come back.
        """
        contestants = [self._resilient, torchrun(), torchrun("torchrun, monitor 0.01 s", "--monitor-interval=0.01")]
        done = 0
        while done < self._runs:
            kills = min(self._kills_per_launch, self._runs - done)
            for contestant in contestants:
                self._measure_launch(contestant, done, kills)
            self._measure_floors(kills)
            done += kills
        self._compare_losses()

    def _measure_launch(self, contestant: Contestant, done: int, kills: int) -> None:
        with self._launch(contestant) as launch:
            for number in range(kills):
                least = _NEXT_KILL if number else _FIRST_KILL
                steps = least + self._random.randrange(2 * self._workload.save_every)
                delay = _STEP_SECONDS * self._random.random()
                found = kill_and_wait(launch, steps, delay, self._workload.save_every)
                self.figures.recoveries.append(found)
                seconds = f"{found.new_step:.3f} s to step {found.last_step + 1}, {found.repeated} repeated"
                print(f"{contestant.name}, run {done + number + 1}: {seconds} {found.problem}", flush=True)
                if found.problem:
                    self.figures.problems.append(f"{contestant.name}: {found.problem}")
            self.figures.memory.setdefault(contestant.name, []).append(launch.memory() / 2**20)
        steps_done = launch.reader.steps()
        self.figures.step_times.setdefault(contestant.name, []).extend(step_times(steps_done))
        self.figures.problems += [f"{contestant.name} left behind {left}" for left in launch.left_behind]
        if contestant.under == "resilient":
            self._killed += steps_done

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
        """Resume is to be bit-exact: run once without a kill, and compare every loss."""
        last = max(line.step for line in self._killed)
        with self._launch(self._resilient, steps=last) as launch:
            code = launch.wait_for_end()
        if code:
            self.figures.problems.append(f"the uninterrupted run ended with exit code {code}")
        self.figures.compared, differing = differing_losses(launch.reader.steps(), self._killed)
        if differing or self.figures.compared < len(self._killed):
            self.figures.problems.append(f"{self.figures.compared} losses compared; steps that differ: {differing}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="recovery-", dir=options.folder) as folder:
        benchmark = Benchmark(options, Path(folder))
        try:
            benchmark.measure()
        except LaunchFailedError as error:
            print(error, file=sys.stderr)
            return 1
    figures = benchmark.figures
    print()
    print("\n".join(report(figures)))
    if options.json is not None:
        body = {
            "machine": surroundings,
            "options": {key: value for key, value in vars(options).items() if key not in ("json", "folder")},
            "summary": {name: asdict(item) for name, item in summaries(figures).items()},
            "figures": asdict(figures),
        }
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return 1 if figures.problems else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=10, help="kills of each contestant (default: %(default)s)")
    parser.add_argument(
        "--kills-per-launch", type=int, default=5, help="before it is started anew (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every", type=int, default=10, help="steps between torchrun's checkpoints (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the model and of the moments of the kills (default: %(default)s)"
    )
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="of resilient's configuration; repeatable"
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's place for temporary files)")
    options = parser.parse_args(arguments)
    if min(options.runs, options.kills_per_launch, options.save_every) < 1:
        parser.error("--runs, --kills-per-launch and --save-every must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
