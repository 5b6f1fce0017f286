"""The demo: train twice, once in peace and once through two SIGKILLs, a preemption and a corrupted snapshot.

    python examples/demo.py            (or: make demo)

Every loss, gradient norm and validation loss of the two runs, and their final weights, optimizer and data position, are
compared bit for bit; the exit code is 1 if anything differs. It writes a plot and prints what each incident cost.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from resilient.drill.faults import CorruptSnapshot, Fault, KillWorker, Preempt, Target
from resilient.errors import ExitCode
from resilient.protocol.metrics_log import read_metrics, series
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths
from resilient.report.incidents import IncidentReport, incident_reports, incident_table
from resilient.snapshot.compare import first_difference

METRICS = ("loss", "grad_norm", "val_loss")
COMPARED = ("model", "optimizer", "scheduler", "position")
MARKER = "made-by-demo"

console = Console(highlight=False, width=max(Console().width, 120))  # tables must not wrap in a log


@dataclass(frozen=True)
class Job:
    """One run of the demo's configuration."""

    paths: RunPaths
    steps: int

    def command(self) -> list[str]:
        settings = [f"run.dir={self.paths.root.parent}", f"run.id={self.paths.run_id}", f"train.steps={self.steps}"]
        return [sys.executable, "-m", "resilient.cli", "train", "conf=demo", *settings]

    def start(self) -> tuple[subprocess.Popen[bytes], Target]:
        process = subprocess.Popen(self.command())
        return process, Target(self.paths, process.pid)


def run_in_peace(job: Job) -> None:
    process, _ = job.start()
    expect(process.wait(), ExitCode.FINISHED)


def run_through_faults(job: Job, dice: random.Random) -> None:
    """SIGKILL, SIGKILL, preemption; then a flipped bit in the newest snapshot, and the same command again."""
    process, target = job.start()
    thirds = [int(job.steps * part) for part in (0.2, 0.4, 0.6)]
    faults: list[Fault] = [KillWorker(), KillWorker(), Preempt()]
    for at, fault in zip(thirds, faults, strict=True):
        step = at + dice.randrange(job.steps // 10)
        target.wait_for_step(step, alive=lambda: process.poll() is None)
        time.sleep(dice.uniform(0.0, 0.1))  # not just after a step boundary, but anywhere in the step
        announce(fault.inject(target))
    expect(process.wait(), ExitCode.REQUEUE)
    console.print(f"[bold]exit code {ExitCode.REQUEUE.value}:[/] {ExitCode.REQUEUE.description}")
    announce(CorruptSnapshot(at=dice.random()).inject(target))
    console.print("[bold]starting the same command again[/]")
    process, _ = job.start()
    expect(process.wait(), ExitCode.FINISHED)


def announce(text: str) -> None:
    console.print(f"[bold red]fault:[/] {text}")


def expect(found: int, wanted: ExitCode) -> None:
    if found != wanted:
        sys.exit(f"the run ended with exit code {found} where {wanted.value} was expected")


def differences(reference: RunPaths, faulted: RunPaths, steps: int) -> list[str]:
    """All that is not the same in the two runs; losses are compared as numbers, without tolerance."""
    found = []
    for name in METRICS:
        one, other = series(reference.metrics, name), series(faulted.metrics, name)
        wrong = [step for step in sorted(one.keys() | other.keys()) if one.get(step) != other.get(step)]
        if wrong or not one:
            found.append(f"{name} differs at {len(wrong)} steps, first at {wrong[:1]}")
    images = [(paths.snapshot(steps) / image_name(0)).read_bytes() for paths in (reference, faulted)]
    state = first_difference(images[0], images[1], only=COMPARED)
    return [*found, f"final state: {state}"] if state else found


def plot(reference: RunPaths, faulted: RunPaths, reports: list[IncidentReport], target: Path) -> None:
    """Left: both loss curves over steps, one hidden below the other. Right: steps over time, with the incidents."""
    import matplotlib as mpl  # noqa: PLC0415  a second of imports that the training must not wait for

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (losses, clock) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    one, other = series(reference.metrics, "loss"), series(faulted.metrics, "loss")
    losses.plot(list(one), list(one.values()), color="#9ecae1", linewidth=5, label="uninterrupted")
    losses.plot(list(other), list(other.values()), color="#08306b", linewidth=1, label="killed, preempted, corrupted")
    val = series(faulted.metrics, "val_loss")
    losses.plot(list(val), list(val.values()), "o-", color="#d95f0e", markersize=4, linewidth=1, label="validation")
    losses.set(xlabel="step", ylabel="loss [nats per byte]", title="The same losses, bit for bit")
    for paths, color, width, label in (
        (reference, "#9ecae1", 4, "uninterrupted"),
        (faulted, "#08306b", 1.5, "killed, preempted, corrupted"),
    ):
        entries = list(read_metrics(paths.metrics))
        start = entries[0].metrics.time
        for number in sorted(
            {entry.round for entry in entries}
        ):  # a line for each round, broken where a new one begins
            part = [entry.metrics for entry in entries if entry.round == number]
            times = [found.time - start for found in part]
            once = label if number == entries[0].round else None
            clock.plot(times, [found.step for found in part], color=color, linewidth=width, label=once)
    for report in reports:
        losses.axvline(report.step, color="#cb181d", linewidth=0.8, linestyle=":")
        clock.plot([report.time - start], [report.step], "x", color="#cb181d")
        losses.annotate(
            f"{report.number}: {report.failure_class}",
            (report.step, 0.99),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color="#cb181d",
            rotation=90,
            ha="left" if report.number % 2 == 0 else "right",
            va="top",
        )
        clock.annotate(str(report.number), (report.time - start, report.step), fontsize=8, color="#cb181d", va="bottom")
    clock.set(xlabel="wall time [s]", ylabel="step", title="What each incident cost")
    for axes in (losses, clock):
        axes.grid(alpha=0.3)
        axes.legend(loc="center right" if axes is losses else "lower right", frameon=False)
    figure.savefig(target, dpi=110)


def fresh_directory(directory: Path) -> None:
    """Empty the demo's directory; one that the demo did not make is left alone."""
    if directory.exists() and not (directory / MARKER).exists():
        sys.exit(f"{directory} exists and was not made by the demo; choose another with --dir")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARKER).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/demo-comparison"), help="where the runs and the plot are written"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the moments at which the faults come; random by default"
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 16)
    directory = options.dir.absolute()
    fresh_directory(directory)
    jobs = [Job(RunPaths.of(directory, name), options.steps) for name in ("reference", "interrupted")]

    console.rule(f"1. {options.steps} steps without interruption")
    run_in_peace(jobs[0])
    console.rule(f"2. the same with two SIGKILLs, a preemption and a corrupted snapshot (--seed {seed})")
    run_through_faults(jobs[1], random.Random(seed))
    console.rule("3. comparison")
    reports = incident_reports(jobs[1].paths)
    console.print(incident_table(reports))
    target = directory / "demo.png"
    plot(jobs[0].paths, jobs[1].paths, reports, target)
    console.print(f"plot: {target}")
    found = differences(jobs[0].paths, jobs[1].paths, options.steps)
    if found:
        console.print("[bold red]NOT identical:[/]", *found, sep="\n  ")
        sys.exit(1)
    count = len(series(jobs[0].paths.metrics, "loss"))
    console.print(
        f"[bold green]bit-identical:[/] {count} losses, gradient norms, validation losses and the whole final state"
    )


if __name__ == "__main__":
    main()
