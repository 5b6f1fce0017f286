"""Two ranks under one supervisor: whatever happens to one of them, both go on from one step, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from itertools import pairwise

import pytest

from resilient.drill.faults import KillSupervisor, KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.snapshot import catalog
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace

# An epoch has 7 batches, the last of them a short one.


def ranks(workspace: Workspace, run_id: str, *settings: str) -> RunCase:
    return workspace.run(run_id, *settings, conf="ranks", ranks=2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to."""
    case = ranks(make_workspace(tmp_path_factory.mktemp("clean")), "clean")
    assert case.finish() == 0, case.output()
    assert case.losses(0) != case.losses(1), "each rank has its own part of the data"
    return case


def _same_steps(case: RunCase) -> None:
    """Every durable snapshot is whole: the images of both ranks, in one manifest."""
    steps = catalog.committed_steps(case.paths.snapshots)
    assert steps
    for step in steps:
        manifest = catalog.verify(case.paths.snapshot(step))
        assert manifest.world_size == 2
        assert [file.rank for file in manifest.files] == [0, 1]
        assert [file.base for file in manifest.files] == [None, 0], "what both have is stored once"


def test_one_rank_killed_or_both(workspace: Workspace, clean: RunCase) -> None:
    case = ranks(workspace, "killed")
    steps = sorted(random.sample(range(2, 58), 3))
    running = case.start()
    for step, lost in zip(steps, random.sample([(0,), (1,), (1, 0)], 3), strict=True):
        running.wait_for_step(step)
        for rank in lost:
            KillWorker(rank).inject(running.target)
    assert running.wait() == 0, case.output()
    launched = case.journal("LaunchRound")
    assert len(launched) == 4, f"one relaunch of both for each, at steps {steps}"
    resumed = [launch["step"] for launch in launched[1:]]
    assert all(isinstance(at, int) and at >= step - 1 for at, step in zip(resumed, steps, strict=True)), resumed
    case.assert_equal_to(clean)
    _same_steps(case)
    told = [[_told(case, number, rank) for rank in range(2)] for number in range(4)]
    assert all(one["port"] == other["port"] for one, other in told), "the ranks of a round meet at one port"
    assert all(before[0]["port"] != after[0]["port"] for before, after in pairwise(told)), "each round at another"
    assert [(each["rank"], each["threads"]) for each in told[3]] == [("0", "1"), ("1", "1")]


def _told(case: RunCase, number: int, rank: int) -> dict[str, str]:
    """What the worker says that it found in its environment."""
    words = case.paths.log(number, rank).read_text().splitlines()[0].split()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_preempted_and_resumed_from_disk(workspace: Workspace, clean: RunCase) -> None:
    case = ranks(workspace, "preempted", "train.workers=1")
    running = case.start().wait_for_step(17)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    running = case.start().wait_for_step(40)
    for process in workspace.processes():  # the way a scheduler ends a job: everybody, in no order
        os.kill(process.pid, signal.SIGTERM)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    _same_steps(case)
    assert case.finish("worker.ranks=1", "run.allow_drift=true") == ExitCode.CONFIG
    assert "worker.ranks is 1, but the snapshot of step" in case.output()
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["preemption", "preemption"]
    assert [launch["source"] for launch in case.journal("LaunchRound")] == [None, "local", "local"]
    case.assert_equal_to(clean)


def test_supervisor_killed_then_the_forkserver(workspace: Workspace, clean: RunCase) -> None:
    case = ranks(workspace, "taken-over")
    running = case.start().wait_for_step(15)
    KillSupervisor().inject(running.target)
    running.wait()
    assert workspace.wait_until_alone() == []
    running = case.start().wait_for_step(35)
    forkserver = next(
        process
        for process in workspace.processes()
        if "resilient.worker.forkserver" in process.cmdline() and process.ppid() == running.process.pid
    )
    forkserver.kill()
    assert running.wait() == 0, case.output()
    launched = case.journal("LaunchRound")
    assert [launch["source"] for launch in launched] == [None, "memory", "memory"]
    assert case.incidents() == ["supervisor lost", "killed"]
    case.assert_equal_to(clean)


def test_sigterm_to_one_worker_alone_makes_both_leave_at_one_step(workspace: Workspace, clean: RunCase) -> None:
    case = ranks(workspace, "alone", "train.terminate_at=25")
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["preemption"], "and nobody was killed in the middle of a step"
    resumed = case.journal("LaunchRound")[1]["step"]
    logs = [case.paths.log(0, rank).read_text() for rank in range(2)]
    assert all(f"left the loop at step {resumed}, finished: False" in log for log in logs), logs
    case.assert_equal_to(clean)


def test_by_time_both_hold_the_same_steps_and_never_half_a_gradient(workspace: Workspace) -> None:
    case = ranks(
        workspace,
        "by-time",
        "snapshot.every_steps=0",
        "snapshot.every_seconds=0.1",
        "snapshot.memory_every_steps=0",
        "train.accumulate=3",
        "retention.last=100",
    )
    running = case.start().wait_for_step(20)
    KillWorker(1).inject(running.target)
    assert running.wait() == 0, case.output()
    steps = catalog.committed_steps(case.paths.snapshots)
    assert len(steps) >= 4
    assert all(step % 3 == 0 for step in steps), steps
    assert not case.conflicting_losses()
    _same_steps(case)


def test_three_ranks_add_up_gradients_in_one_order_whatever_is_killed(workspace: Workspace) -> None:
    """With two, every order gives the same sum."""
    settings = ("worker.ranks=3", "train.samples=60")
    whole = workspace.run("whole", *settings, steps=20, conf="ranks", ranks=3)
    assert whole.finish() == 0, whole.output()
    case = workspace.run("three", *settings, steps=20, conf="ranks", ranks=3)
    running = case.start().wait_for_step(6)
    KillWorker(2).inject(running.target)
    assert running.wait() == 0, case.output()
    assert len(case.journal("LaunchRound")) == 2
    case.assert_equal_to(whole, 20)
