"""The demo: train in peace, then through two SIGKILLs, a preemption and a corrupted snapshot, then on poisoned data.

    python examples/demo.py            (or: make demo)

Every loss, gradient norm and validation loss of the first two runs, and their final weights, optimizer and data
position, are compared bit for bit; the exit code is 1 if anything differs. In the third run the samples of some steps
are damaged: the loss diverges, the run is taken back to a good snapshot and leaves them out. It prints what each
incident cost and writes a plot.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from demo_plot import plot
from rich.console import Console

from resilient.drill.faults import CorruptSnapshot, Fault, KillWorker, Preempt, Target
from resilient.errors import ExitCode
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.metrics_log import series
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths
from resilient.report.incidents import incident_reports, incident_table
from resilient.snapshot.compare import first_difference

METRICS = ("loss", "grad_norm", "val_loss")
COMPARED = ("model", "optimizer", "scheduler", "position")
MARKER = "made-by-demo"
HERE = Path(__file__).resolve().parent

console = Console(highlight=False, width=max(Console().width, 120))  # tables must not wrap in a log


@dataclass(frozen=True)
class Job:
    """One run of the demo's configuration."""

    paths: RunPaths
    steps: int
    settings: tuple[str, ...] = ()

    def command(self) -> list[str]:
        place = [f"run.dir={self.paths.root.parent}", f"run.id={self.paths.run_id}"]
        settings = [*place, f"train.steps={self.steps}", *self.settings]
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


def damage(directory: Path, steps: int) -> tuple[str, ...]:
    """Settings of a run in which the samples that some forty steps would draw are damaged."""
    first = int(0.6 * steps)
    last = first + max(24, int(0.13 * steps))
    file = directory / "damaged.json"
    drawn = [sys.executable, str(HERE / "bytelm" / "order.py"), str(first), str(last), "16", "0"]
    file.write_text(subprocess.run(drawn, check=True, capture_output=True, text=True).stdout)
    announce(f"the targets of the {16 * (last - first + 1)} samples of steps {first} to {last} are random bytes now")
    # a run this short has no hundred steps to learn from and to wait for
    sooner = ("warmup_steps=20", "good_after=20", "margin=4", "ladder.probation=30", "metrics.loss.spike.patience=12")
    learned = ("metrics.loss.spike.history=30",)
    return (f"train.damaged={file}", "snapshot.every_steps=10", *(f"divergence.{text}" for text in sooner + learned))


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


def damage_left(reference: RunPaths, damaged: RunPaths) -> list[str]:
    """What is wrong with a run that met damaged samples: it was not taken back, or it ended worse."""
    lineage = read_lineage(damaged)
    final = [list(series(paths.metrics, "val_loss").values())[-1] for paths in (reference, damaged)]
    console.print(
        f"damaged samples: taken back {len(lineage.rollbacks)} times, validation loss {final[1]:.4f} at the end, "
        f"{final[0]:.4f} without any damage"
    )
    found = [] if lineage.rollbacks else ["the damaged samples were not noticed"]
    return found if final[1] < 1.03 * final[0] else [*found, "the damaged samples have left their mark on the model"]


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
    jobs = [Job(RunPaths.of(directory, name), options.steps) for name in ("reference", "interrupted", "damaged")]

    console.rule(f"1. {options.steps} steps without interruption")
    run_in_peace(jobs[0])
    console.rule(f"2. the same with two SIGKILLs, a preemption and a corrupted snapshot (--seed {seed})")
    run_through_faults(jobs[1], random.Random(seed))
    console.rule("3. the same on damaged data")
    jobs[2] = replace(jobs[2], settings=damage(directory, options.steps))
    run_in_peace(jobs[2])
    console.rule("4. comparison")
    reports = incident_reports(jobs[1].paths)
    console.print(incident_table(reports))
    console.print(incident_table(incident_reports(jobs[2].paths)))
    target = directory / "demo.png"
    plot(*(job.paths for job in jobs), reports, target)
    console.print(f"plot: {target}")
    found = [*differences(jobs[0].paths, jobs[1].paths, options.steps), *damage_left(jobs[0].paths, jobs[2].paths)]
    if found:
        console.print("[bold red]NOT as it should be:[/]", *found, sep="\n  ")
        sys.exit(1)
    count = len(series(jobs[0].paths.metrics, "loss"))
    console.print(
        f"[bold green]bit-identical:[/] {count} losses, gradient norms, validation losses and the whole final state"
    )


if __name__ == "__main__":
    main()
