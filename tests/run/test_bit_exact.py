"""Resuming is bit-exact, whatever ended the round."""

from __future__ import annotations

import random
import signal

import pytest

from resilient.drill.faults import (
    CorruptSnapshot,
    Fault,
    KillDrain,
    KillForkserver,
    KillSupervisor,
    KillWorker,
    Preempt,
)
from tests.run.harness import RunCase, Workspace

# An epoch has 13 batches: steps 13, 26, 39 and 52 end one.


@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_steps_in_a_row(workspace: Workspace, reference: RunCase, workers: int) -> None:
    case = workspace.run(f"kills-{workers}", f"train.workers={workers}")
    steps = sorted(random.sample(range(2, 58), 3))
    running = case.start()
    for step in steps:
        running.wait_for_step(step)
        KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"] * 3, f"steps {steps}"
    case.assert_equal_to(reference)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [12, 13, 14])
def test_kill_around_the_end_of_an_epoch(workspace: Workspace, reference: RunCase, workers: int, step: int) -> None:
    case = workspace.run("epoch-end", f"train.workers={workers}")
    running = case.start().wait_for_step(step)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    case.assert_equal_to(reference)


@pytest.mark.parametrize("workers", [0, 2])
def test_preempted_twice_and_resumed_from_disk(workspace: Workspace, reference: RunCase, workers: int) -> None:
    case = workspace.run("preempted", f"train.workers={workers}")
    for step in (17, 40):
        running = case.start().wait_for_step(step)
        Preempt().inject(running.target)
        assert running.wait() == 75, case.output()
        assert case.paths.latest.resolve().name >= f"step-{step:09d}"
    assert case.finish() == 0
    assert case.incidents() == ["preemption", "preemption"]
    case.assert_equal_to(reference)
    drawn = {_drawn_without_a_seed(case, number) for number in range(3)}
    assert len(drawn) == 1, "what a script makes up before it attaches is no part of the state"
    assert _drawn_without_a_seed(reference, 0) not in drawn, "another run draws something else"


def test_without_memory_snapshots_steps_are_repeated_with_the_same_losses(
    workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("disk-only", "snapshot.memory_every_steps=10")
    running = case.start().wait_for_step(27)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.journal("LaunchRound")[1]["step"] == 20
    case.assert_equal_to(reference)


def test_supervisor_killed_its_successor_takes_over_from_memory(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("taken-over", "train.workers=2")
    running = case.start().wait_for_step(25)
    KillSupervisor().inject(running.target)
    running.wait()
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["supervisor lost"]
    resumed = case.journal("LaunchRound")[1]
    assert resumed["source"] == "memory"
    assert isinstance(resumed["step"], int)
    assert resumed["step"] >= 24
    case.assert_equal_to(reference)


def test_supervisor_killed_leaves_no_process(workspace: Workspace) -> None:
    case = workspace.run("orphans", "train.workers=2", "train.daemon=true")
    running = case.start().wait_for_step(5)
    assert len(workspace.processes()) >= 7, "supervisor, forkserver, drain, worker, two DataLoader workers, daemon"
    KillSupervisor().inject(running.target)
    running.wait()
    assert workspace.wait_until_alone() == []
    assert case.finish("train.daemon=true") == 0  # and the run can still be finished


@pytest.mark.parametrize("fault", [KillForkserver(), KillDrain()], ids=["forkserver", "drain"])
def test_helper_killed_the_run_goes_on(workspace: Workspace, reference: RunCase, fault: Fault) -> None:
    case = workspace.run("helper-killed")
    running = case.start().wait_for_step(15)
    fault.inject(running.target)
    assert running.wait() == 0, case.output()
    case.assert_equal_to(reference)


def test_corrupt_newest_snapshot_falls_back_to_the_one_before(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("corrupt")
    running = case.start().wait_for_step(35)
    Preempt().inject(running.target)
    assert running.wait() == 75
    CorruptSnapshot(at=random.random()).inject(running.target)
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["preemption", "bad snapshot"]
    assert case.journal("LaunchRound")[1]["step"] == 30
    assert len(list(case.paths.snapshots.glob("*.corrupt"))) == 1
    case.assert_equal_to(reference)


def test_sigterm_to_every_process_at_once(workspace: Workspace, reference: RunCase) -> None:
    """As a scheduler does it: the DataLoader workers get it too, and must not die of it."""
    case = workspace.run("group", "train.workers=2")
    running = case.start().wait_for_step(20)
    for process in workspace.processes():
        process.terminate()
    assert running.wait() == 75, case.output()
    assert "exited unexpectedly" not in case.output()
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_sigterm_to_the_worker_alone_is_a_preemption_of_it(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("worker-only")
    running = case.start().wait_for_step(20)
    KillWorker(number=signal.SIGTERM).inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["preemption"]
    case.assert_equal_to(reference)


def _drawn_without_a_seed(case: RunCase, number: int) -> str:
    lines = case.paths.log(number, 0).read_text().splitlines()
    return next(line for line in lines if line.startswith("drawn without a seed"))
