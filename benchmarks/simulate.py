"""How fast the decision core decides, and how far simulated clusters are from what is published.

    python -m benchmarks.simulate --json simulate.json

Decisions per second are given by the clock and by the processor time of this process: on a busy machine the two differ,
and the second says what the code costs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.recovery_report import machine
from resilient.policy.events import Event, RunOpened, SnapshotsListed, Tick, WorkerProgressed
from resilient.policy.machine import decide
from resilient.policy.state import PolicySettings, RunState
from resilient.simulate.engine import simulate
from resilient.simulate.faults import LLAMA3_INTERRUPTIONS
from resilient.simulate.plan import Plan
from resilient.simulate.presets import PRESETS
from resilient.simulate.sweep import sweep

_STEP_SECONDS, _REPEATS = 5.0, 5
Row = dict[str, Any]


def steps(ranks: int, count: int) -> Iterator[tuple[Event, float]]:
    """A healthy round: each rank's steps, and a tick after each."""
    for number in range(1, count + 1):
        for rank in range(ranks):
            yield WorkerProgressed(rank, number), number * _STEP_SECONDS
        yield Tick(), number * _STEP_SECONDS + 0.05


def ticks(_ranks: int, count: int) -> Iterator[tuple[Event, float]]:
    """Nothing happens, which is what a supervisor asks about twenty times a second."""
    return ((Tick(), 10 + number * 0.05) for number in range(count))


def decisions(events: list[tuple[Event, float]], ranks: int) -> tuple[float, float]:
    """Per second of the clock, and per second of processor time."""
    state = RunState(settings=PolicySettings(ranks=ranks))
    state, _ = decide(state, RunOpened(), 0.0)
    state, _ = decide(state, SnapshotsListed(), 0.0)
    clock, processor = time.perf_counter(), time.process_time()
    for event, now in events:
        state, _ = decide(state, event, now)
    processor, clock = time.process_time() - processor, time.perf_counter() - clock
    return len(events) / clock, len(events) / processor


def core(count: int) -> Iterator[Row]:
    made: tuple[tuple[str, Callable[[int, int], Iterator[tuple[Event, float]]]], ...] = (
        ("steps and ticks", steps),
        ("ticks", ticks),
    )
    for name, make in made:
        for ranks in (1, 8, 64):
            events = list(make(ranks, max(100, count // ranks)))
            found = [decisions(events, ranks) for _ in range(_REPEATS)]
            by_clock, by_processor = (max(values) for values in zip(*found, strict=True))
            yield {"events": name, "ranks": ranks, "per_second": by_clock, "per_processor_second": by_processor}


def clusters(seeds: int) -> Iterator[Row]:
    llama3 = PRESETS["llama3"]
    large = replace(llama3, gpus=100_000, spares=200)
    patient = replace(llama3.restarts, crash_loop=20, max_failures=20, per_class={"hardware": 20})
    yield _cluster("llama3", llama3, seeds)
    yield _cluster("llama3, 100,000 GPUs, default budgets", large, seeds)
    yield _cluster("llama3, 100,000 GPUs, budgets of 20", replace(large, restarts=patient), seeds)


def _cluster(name: str, plan: Plan, seeds: int) -> Row:
    processor = time.process_time()
    found = [simulate(replace(plan, seed=seed)) for seed in range(seeds)]
    seconds = (time.process_time() - processor) / seeds
    interruptions = [outcome.interruptions for outcome in found]
    goodput = [outcome.goodput for outcome in found]
    error = sum(interruptions) / seeds / LLAMA3_INTERRUPTIONS - 1
    return {
        "cluster": name,
        "seeds": seeds,
        "interruptions": sum(interruptions) / seeds,
        "interruptions_range": [min(interruptions), max(interruptions)],
        "interruptions_error": error if name in PRESETS else None,
        "goodput": sum(goodput) / seeds,
        "goodput_range": [min(goodput), max(goodput)],
        "ended": sum(outcome.ended is not None for outcome in found),
        "processor_seconds": seconds,
        "decisions": sum(outcome.decisions for outcome in found) / seeds,
    }


def intervals(seeds: int) -> Row:
    swept = sweep(replace(PRESETS["dense70b"], remote_gbs=20, blocking=True), seeds)
    return {
        "rule": swept.rule,
        "best": swept.best.seconds,
        "lost_by_rule": swept.lost_by_rule,
        "tried": [vars(trial) for trial in swept.tried],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=20_000, help="of each kind")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: Row = {"machine": machine(), "core": []}
    for row in core(options.decisions):
        found["core"].append(row)
        print(
            f"decide, {row['events']}, {row['ranks']} ranks: {row['per_second']:,.0f} per second, "
            f"{row['per_processor_second']:,.0f} per second of processor time"
        )
    found["clusters"] = []
    for row in clusters(options.seeds):
        found["clusters"].append(row)
        error = "" if row["interruptions_error"] is None else f" ({row['interruptions_error']:+.1%} of the published)"
        low, high = row["goodput_range"]
        print(
            f"{row['cluster']}: {row['interruptions']:,.0f} interruptions{error}, goodput {row['goodput']:.2%} "
            f"({low:.2%} to {high:.2%}), ended early in {row['ended']} of {row['seeds']}; "
            f"{row['processor_seconds']:.2f} s of processor time each"
        )
    found["intervals"] = intervals(options.seeds)
    swept = found["intervals"]
    print(
        f"best interval: {swept['best']:,.0f} s; by the rule {swept['rule']:,.0f} s, "
        f"which gives away {swept['lost_by_rule']:.3%} of goodput"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
