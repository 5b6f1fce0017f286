"""From measurements to figures: medians, percentiles, ratios, and where the time goes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recovery_launch import ROOT
from benchmarks.recovery_run import Recovery


@dataclass
class Figures:
    """All that one invocation measured; times in seconds.

    :param step_times: between two steps in the loop, by contestant.
    :param floors: what :mod:`benchmarks.recovery_floor` found, fork by fork.
    :param cold_starts: of ``python -c "import torch"``.
    :param memory: MiB held by supervisor or agent and all its processes, by contestant, once for each launch.
    :param attempts: faults, by contestant.
    :param lost: who did not come back after one, and the last words.
    :param compared: losses of struck runs that were compared with an uninterrupted one's.
    :param problems: whatever should not have happened.
    """

    recoveries: list[Recovery] = field(default_factory=list)
    step_times: dict[str, list[float]] = field(default_factory=dict)
    floors: list[dict[str, float]] = field(default_factory=list)
    cold_starts: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    compared: int = 0
    problems: list[str] = field(default_factory=list)

    def contestants(self) -> list[str]:
        return list(dict.fromkeys(recovery.contestant for recovery in self.recoveries))

    def of(self, contestant: str) -> list[Recovery]:
        return [recovery for recovery in self.recoveries if recovery.contestant == contestant]


@dataclass(frozen=True)
class Summary:
    """Median, tenth and ninetieth percentile of ``runs`` values."""

    runs: int
    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        if len(values) == 1:
            return cls(1, values[0], values[0], values[0])
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(len(values), statistics.median(values), tenths[0], tenths[-1])


def summaries(figures: Figures) -> dict[str, Summary]:
    """The rows of the first table by name; seconds."""
    found: dict[str, Summary] = {}
    for name in figures.contestants():
        recoveries = figures.of(name)
        found[f"{name}: fault → next new step"] = Summary.of([recovery.new_step for recovery in recoveries])
        found[f"{name}: fault → first step"] = Summary.of([recovery.first_step for recovery in recoveries])
        found[f"{name}: step"] = Summary.of(figures.step_times[name])
    for key, label in (("first_step", "floor: fork and first step"), ("fork", "floor: fork"), ("step", "floor: step")):
        found[label] = Summary.of([item[key] for item in figures.floors])
    found['floor: python -c "import torch"'] = Summary.of(figures.cold_starts)
    return found


def report(figures: Figures) -> Iterator[str]:
    """The lines to print."""
    found = summaries(figures)
    width = max(map(len, found))
    yield f"{'milliseconds':{width}}  runs   median      p10      p90"
    for name, item in found.items():
        yield f"{name:{width}}  {item.runs:4}  {_ms(item.median)} {_ms(item.p10)} {_ms(item.p90)}"
    yield ""
    yield from _ratios(figures, found)
    yield ""
    for name in figures.contestants():
        yield from _stages(name, figures.of(name))
        yield ""
    yield f"losses of struck runs equal to those of an uninterrupted one, bit for bit: {figures.compared} compared"
    yield from (f"NOT RECOVERED: {lost}" for lost in figures.lost)
    yield from (f"PROBLEM: {problem}" for problem in figures.problems)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:8.1f}"


def _ratios(figures: Figures, found: dict[str, Summary]) -> Iterator[str]:
    first, *others = figures.contestants()
    own = found[f"{first}: fault → next new step"].median
    for name in others:
        ratio = found[f"{name}: fault → next new step"].median / own
        yield f"{name} / {first}, ratio of medians: {ratio:.1f}"
    yield f"{first} / floor of fork and first step: {own / found['floor: fork and first step'].median:.1f}"
    for name, attempts in figures.attempts.items():
        yield f"{name}: recovered {len(figures.of(name))} of {attempts}"
    for name in figures.contestants():
        repeated = [recovery.repeated for recovery in figures.of(name)]
        yield f"{name}: steps repeated per fault: mean {statistics.mean(repeated):.1f}, most {max(repeated)}"
    for name, held in figures.memory.items():
        yield f"{name}: memory of all its processes, shared pages counted once: {statistics.median(held):.0f} MiB"


def _stages(name: str, recoveries: Sequence[Recovery]) -> Iterator[str]:
    """Each stage's median end, and the median of what it took since the stage before."""
    rows = [[*item.stages.items(), ("first step", item.first_step), ("new step", item.new_step)] for item in recoveries]
    names = list(dict.fromkeys(stage for row in rows for stage, _ in row))
    yield f"{name + ', median ms':40}    took   since fault"
    for stage in names:
        ends, took = [], []
        for row in rows:
            moments = [0.0, *(moment for _, moment in row)]
            ends += [moment for label, moment in row if label == stage]
            took += [moment - moments[at] for at, (label, moment) in enumerate(row) if label == stage]
        yield f"  {stage:38}{_ms(statistics.median(took))}     {_ms(statistics.median(ends))}"


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "resilient": f"{importlib.metadata.version('resilient')} {_commit()}".strip(),
    }


def _processor() -> str:
    lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], check=False, capture_output=True, text=True
    )
    return found.stdout.strip()
