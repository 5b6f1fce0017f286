"""The examples of the integrations as runs: what is done to them, and what is compared in the end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resilient.drill.faults import KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.protocol.board import Word, WorkerPhase
from resilient.protocol.metrics_log import read_metrics
from resilient.snapshot import catalog
from resilient.snapshot.compare import first_difference
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Running, Workspace

TIMINGS = ("_runtime", "_per_second")
KEPT = ("model", "optimizer", "scheduler", "position", "rng", "scaler", "accumulation", "registered")


@dataclass
class Example(RunCase):
    """A built-in configuration."""

    def configuration(self) -> str:
        return self.conf

    def metrics(self) -> dict[tuple[int, str], set[float]]:
        """All values of all metrics, by step and name, where those of further ranks have theirs in it; a step that was
        done again gives another value only if it differs.
        """
        found: dict[tuple[int, str], set[float]] = {}
        for entry in read_metrics(self.paths.metrics):
            for name, value in entry.metrics.values.items():
                if not name.endswith(TIMINGS):
                    where = f"{name} of rank {entry.rank}" if entry.rank else name
                    found.setdefault((entry.metrics.step, where), set()).add(value)
        return found

    def last(self) -> int:
        return max(catalog.committed_steps(self.paths.snapshots))

    def assert_same_as(self, whole: Example, kept: Sequence[str] = KEPT) -> None:
        """Every metric of every step, and the state in the end."""
        ours, theirs = self.metrics(), whole.metrics()
        differing = {place: (ours.get(place), theirs.get(place)) for place in {*ours, *theirs}}
        wrong = {place: pair for place, pair in differing.items() if pair[0] != pair[1]}
        assert not wrong, wrong
        assert self.last() == whole.last()
        for rank in range(self.ranks):
            found = first_difference(self.image(self.last(), rank), whole.image(whole.last(), rank), kept)
            assert found is None, (rank, found)


def make(workspace: Workspace, conf: str, run_id: str, *settings: str) -> Example:
    return Example(workspace, run_id, settings, conf=conf)


def in_peace(workspace: Workspace, conf: str, *settings: str) -> Example:
    """The run that nothing happens to."""
    case = make(workspace, conf, "whole", *settings)
    assert case.finish() == 0, case.output()
    return case


def killed(workspace: Workspace, whole: Example, steps: Sequence[int]) -> Example:
    """The same run, whose worker is killed after each of ``steps``, and ends all the same."""
    case = make(workspace, whole.conf, "killed", *whole.settings)
    running = case.start()
    for step in steps:
        running.wait_for_step(step)
        KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"] * len(steps), case.output()
    return case


def preempted(workspace: Workspace, whole: Example, *moments: Callable[[Running], None]) -> Example:
    """The same run, preempted at each of ``moments``, and started again by the same command."""
    case = make(workspace, whole.conf, "preempted", *whole.settings)
    for moment in moments:
        running = case.start()
        moment(running)
        Preempt().inject(running.target)
        assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["preemption"] * len(moments), case.output()
    assert [launch["source"] for launch in case.journal("LaunchRound")] == [None, *["local"] * len(moments)]
    return case


def on_two_ranks(workspace: Workspace, tmp_path: Path, conf: str, *settings: str, kill: int, preempt: int) -> Example:
    """A run on two ranks, of which one is killed after a step, and which is preempted after a later one, ends as the
    same run in peace does. Returns that.
    """
    (tmp_path / "whole").mkdir()
    given = (*settings, "worker.ranks=2")
    whole = Example(make_workspace(tmp_path / "whole"), "whole", given, conf=conf, ranks=2)
    assert whole.finish() == 0, whole.output()
    case = Example(workspace, "struck", given, conf=conf, ranks=2)
    running = case.start().wait_for_step(kill)
    KillWorker(1).inject(running.target)
    running.wait_for_step(preempt)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["killed", "preemption"], case.output()
    assert [launch["source"] for launch in case.journal("LaunchRound")] == [None, "memory", "local"]
    case.assert_same_as(whole)
    return whole


def at_step(step: int) -> Callable[[Running], None]:
    def wait(running: Running) -> None:
        running.wait_for_step(step)

    return wait


def in_evaluation_after(step: int) -> Callable[[Running], None]:
    """While it evaluates, some time after ``step``."""

    def wait(running: Running) -> None:
        running.wait_for_step(step)
        running.target.wait_until(
            lambda: running.target.read(Word.PHASE) == WorkerPhase.EVALUATION, "an evaluation", poll=0.001
        )

    return wait


def somewhere(first: int, last: int, count: int) -> list[int]:
    return sorted(random.sample(range(first, last), count))
