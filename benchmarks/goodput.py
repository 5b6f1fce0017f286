"""The same job through the same faults: the wall time to the same step, of resilient and of what others train with.

    python -m benchmarks.peers nvrx lightning transformers
    python -m benchmarks.goodput --json goodput.json

Definitions, method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.goodput_account import Outcome
from benchmarks.goodput_checks import Ledger, of_outcome, same_end, same_job
from benchmarks.goodput_contestants import CONTESTANTS, RESILIENT, Contestant, run_paths
from benchmarks.goodput_options import Options
from benchmarks.goodput_report import Figures, as_json, report, rows
from benchmarks.goodput_run import Run
from benchmarks.goodput_trace import LEAST_STEPS, Fault, Kind, spike_of, trace
from benchmarks.recovery_launch import LaunchFailedError
from benchmarks.recovery_report import machine


class Benchmark:
    """Runs all contestants in turns, in folders of their own below ``folder``."""

    def __init__(self, options: argparse.Namespace, contestants: Sequence[Contestant], folder: Path) -> None:
        self.figures = Figures(options.steps)
        self._options = options
        self._contestants = contestants
        self._folder = folder

    def measure(self) -> None:
        """All rounds; whose turn it is first rotates."""
        for number in range(self._options.rounds):
            faults = self._trace(number)
            turn = number % len(self._contestants)
            for contestant in (*self._contestants[turn:], *self._contestants[:turn]):
                peaceful = self._run(contestant, number, [])
                faulted = self._run(contestant, number, faults)
                if contestant.name == RESILIENT and peaceful is not None and faulted is not None:
                    self._compare(peaceful, faulted, number)
        self._compare_jobs()

    def _run(self, contestant: Contestant, number: int, faults: Sequence[Fault]) -> Outcome | None:
        what = "through the trace" if faults else "without a fault"
        try:
            with Run(
                contestant,
                self._told(contestant.name, number, faults),
                faults,
                hang_seconds=self._options.hang_seconds,
                notice=self._options.notice_seconds,
            ) as run:
                outcome = run.finish()
        except LaunchFailedError as error:
            self.figures.lost.append(f"round {number + 1}, {what}: {error}")
            print(f"round {number + 1}: {contestant.name} {what}: NOT FINISHED", flush=True)
            return None
        arm = self.figures.faulted if faults else self.figures.peaceful
        arm.setdefault(contestant.name, []).append(outcome)
        self.figures.problems += of_outcome(outcome, faults)
        print(
            f"round {number + 1}: {contestant.name} {what}: {outcome.wall:.1f} s, "
            f"{len(outcome.interventions)} interventions, final loss {outcome.val_loss:.4f}",
            flush=True,
        )
        return outcome

    def _trace(self, number: int) -> list[Fault]:
        return trace(self._options.seed + number, self._options.steps, self._options.without)

    def _told(self, name: str, number: int, faults: Sequence[Fault]) -> Options:
        return Options(
            under=name,
            folder=self._folder / f"{number:02d}-{name}-{'faulted' if faults else 'peaceful'}",
            steps=self._options.steps,
            save_every=self._options.save_every,
            keep=self._options.keep,
            seed=self._options.seed,
            spike=spike_of(faults),
        )

    def _compare(self, peaceful: Outcome, faulted: Outcome, number: int) -> None:
        """Of ours, what can be compared with an uninterrupted run, and with its own report."""
        faults = self._trace(number)
        paths = [run_paths(self._told(RESILIENT, number, given)) for given in ([], faults)]
        self.figures.problems += same_end((peaceful, paths[0]), (faulted, paths[1]), self._options.steps)
        ledger = Ledger.of(paths[1], faulted)
        self.figures.ledgers.append(ledger)
        self.figures.problems += filter(None, [ledger.problem()])

    def _compare_jobs(self) -> None:
        first, *others = (outcome for outcomes in self.figures.peaceful.values() for outcome in outcomes)
        for other in others:
            self.figures.problems += same_job(first, other)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    contestants = []
    for contestant in (CONTESTANTS[name] for name in options.contestants):
        if (reason := contestant.missing()) is None:
            contestants.append(contestant)
        else:
            print(f"{contestant.name} is NOT MEASURED: {reason}", flush=True)
    with tempfile.TemporaryDirectory(prefix="goodput-", dir=options.folder) as folder:
        benchmark = Benchmark(options, contestants, Path(folder))
        benchmark.measure()
    figures = benchmark.figures
    lines = list(report(figures, options.operator_seconds))
    print("\n" + "\n".join(lines), flush=True)
    if options.json is not None:
        body: dict[str, Any] = {
            "machine": surroundings,
            "options": {key: value for key, value in vars(options).items() if key not in ("json", "folder")},
            "summary": [asdict(row) for row in rows(figures, options.operator_seconds)],
            **as_json(figures),
        }
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return 1 if figures.problems or figures.lost else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=3, help="each with a trace of its own (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of the job (default: %(default)s)")
    parser.add_argument(
        "--save-every", type=int, default=50, help="steps between checkpoints, of everybody (default: %(default)s)"
    )
    parser.add_argument("--keep", type=int, default=3, help="checkpoints that everybody keeps (default: %(default)s)")
    parser.add_argument(
        "--hang-seconds",
        type=float,
        default=5.0,
        help="silence that resilient and ft_launcher are told to take for a hang (default: %(default)s)",
    )
    parser.add_argument(
        "--operator-seconds",
        type=float,
        default=60.0,
        help="from the last step until the operator has come (default: %(default)s)",
    )
    parser.add_argument(
        "--notice-seconds",
        type=float,
        default=15.0,
        help="silence after which the benchmark knows that nobody else will help; no start may be as silent as that "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=[kind.value for kind in Kind],
        default=[],
        help="kinds of faults to leave out, such as the spike, of which nobody else takes notice",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the model, the data and the first trace")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's place for temporary files)")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.save_every) < 1 or options.keep < 2 or options.steps < LEAST_STEPS:
        parser.error(f"--rounds and --save-every must be at least 1, --keep 2 and --steps {LEAST_STEPS}")
    if len(set(options.without)) == len(Kind):
        parser.error("--without: no fault is left")
    if options.notice_seconds <= options.hang_seconds:
        parser.error("--notice-seconds must be more than --hang-seconds, or the operator is faster than who watches")
    return options


if __name__ == "__main__":
    sys.exit(main())
