"""What resilient costs while nothing goes wrong: time of a step, of its boundary, memory and CPU of the supervisor.

    python -m benchmarks.overhead --json overhead.json

Definitions, method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overhead_launch import AUTOMATIC, CONTESTANTS, PLAIN, RARE, Launch, watch_idle
from benchmarks.recovery_report import machine

_OVERHEAD, _BOUNDARY_MICROSECONDS, _MEMORY_MIB, _CPU_PERCENT = 1.0, 20.0, 60.0, 1.0  # what is wanted


class Benchmark:
    """Everything, in folders of its own below ``folder``."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._launches = 0
        self.steps: dict[str, dict[str, list[dict[str, Any]]]] = {}  # size → contestant → launches
        self.boundary: list[dict[str, float]] = []
        self.idle: dict[str, dict[str, float]] = {}

    def measure(self) -> None:
        for number in range(self._options.rounds):
            for size in ("small", "large"):
                steps = getattr(self._options, f"{size}_steps")
                turn = number % len(CONTESTANTS)
                for contestant in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
                    found = self._launch(contestant, size, "--steps", str(steps)).result()
                    self.steps.setdefault(size, {}).setdefault(contestant.name, []).append(found)
                    mean = 1e3 * statistics.mean(found["steps"])
                    print(f"{size}, round {number + 1}, {contestant.name}: {mean:.2f} ms", flush=True)
            self.boundary.append(self._launch(RARE, "empty", "--steps", str(self._options.empty_steps)).result())
        seconds = self._options.idle_seconds
        launch = self._launch(RARE, "sleep", "--seconds", str(seconds + 10))
        self.idle = watch_idle(launch, seconds)
        launch.process.wait()

    def _launch(self, contestant: Any, mode: str, *arguments: str) -> Launch:
        self._launches += 1
        return Launch(contestant, mode, self._folder / f"{self._launches:03d}-{mode}", *arguments)

    # --- what came of it

    def report(self) -> Iterator[str]:
        for size in self.steps:
            yield from self._report_steps(size)
        boundary = 1e6 * statistics.median(item["step"] for item in self.boundary)
        report = 1e6 * statistics.median(item["report"] for item in self.boundary)
        busy = 1e6 * statistics.median(item["busy"] for item in self.boundary)
        parts = f"{busy:.1f} of them on the processor, {report:.1f} in run.report"
        yield f"a step with 3 metrics and no snapshot: {boundary:.1f} µs, {parts}"
        yield _verdict(boundary, _BOUNDARY_MICROSECONDS, "µs per step")
        for name, found in self.idle.items():
            memory = f"RSS {found['rss_mib']:.1f}, PSS {found['pss_mib']:.1f}, USS {found['uss_mib']:.1f} MiB"
            yield f"{name}: {memory}; {found['cpu_percent']:.2f} % of a core while the worker sleeps"
        yield _verdict(self.idle["supervisor"]["rss_mib"], _MEMORY_MIB, "MiB resident in the supervisor")
        yield _verdict(self.idle["supervisor"]["cpu_percent"], _CPU_PERCENT, "% of a core in the supervisor")

    def _report_steps(self, size: str) -> Iterator[str]:
        """Means, which know of every snapshot, beside medians, which know of none that is rare."""
        launches = self.steps[size]
        for name, found in launches.items():
            means = [1e3 * statistics.mean(item["steps"]) for item in found]
            medians = [1e3 * statistics.median(item["steps"]) for item in found]
            done = len(found[0]["steps"])
            taken = statistics.median(item["snapshots"] for item in found)
            yield (
                f"{size}, {name}: step {statistics.median(medians):.2f} ms (median; {min(medians):.2f} to "
                f"{max(medians):.2f} by launch), {statistics.median(means):.2f} ms (mean; {min(means):.2f} to "
                f"{max(means):.2f}), {taken:g} snapshots of {found[0]['bytes'] / 1e6:.0f} MB in {done} steps"
            )
        for name in (RARE.name, AUTOMATIC.name):
            yield from self._report_overhead(size, name)

    def _report_overhead(self, size: str, name: str) -> Iterator[str]:
        for label, average in (("median", statistics.median), ("mean", statistics.mean)):
            pairs = zip(self.steps[size][name], self.steps[size][PLAIN.name], strict=True)
            ratios = [100 * (average(own["steps"]) / average(plain["steps"]) - 1) for own, plain in pairs]
            found = statistics.median(ratios)
            spread = f"{min(ratios):+.2f} to {max(ratios):+.2f} by round"
            yield f"{size}, {name}, overhead of the {label} step: {found:+.2f} % ({spread})"
            if label == "mean" and name == AUTOMATIC.name:
                yield _verdict(found, _OVERHEAD, "% of step time")


def _verdict(found: float, most: float, unit: str) -> str:
    return f"  {'met' if found <= most else 'MISSED'}: {found:.2f} {unit}, wanted at most {most:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=options.folder) as folder:
        benchmark = Benchmark(options, Path(folder))
        benchmark.measure()
    print("\n".join(benchmark.report()))
    if options.json:
        body = {
            "machine": surroundings,
            "steps": benchmark.steps,
            "boundary": benchmark.boundary,
            "idle": benchmark.idle,
            "report": list(benchmark.report()),
        }
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="launches of each contestant (default: %(default)s)")
    parser.add_argument("--small-steps", type=int, default=300, help="of each launch (default: %(default)s)")
    parser.add_argument("--large-steps", type=int, default=60, help="of each launch (default: %(default)s)")
    parser.add_argument("--empty-steps", type=int, default=20_000, help="of each launch (default: %(default)s)")
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="that the supervisor is watched")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's place for temporary files)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
