"""Gradient accumulation: what is interrupted between two optimizer steps goes on bit for bit, from the last of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.drill.faults import KillWorker, Preempt
from tests.run.conftest import PRELOAD, make_workspace
from tests.run.harness import RunCase, Workspace
from tests.run.train_accumulating import EVERY

_CONFIG = f"""
worker:
  script: {Path(__file__).with_name("train_accumulating.py")}
  preload: {PRELOAD}
snapshot:
  every_steps: 10
train:
  steps: 60
  step_seconds: 0.01
"""


def accumulating(workspace: Workspace, run_id: str, *settings: str) -> RunCase:
    (workspace.directory / "conf" / "small.yaml").write_text(_CONFIG)
    return workspace.run(run_id, *settings)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to."""
    case = accumulating(make_workspace(tmp_path_factory.mktemp("accumulating")), "uninterrupted")
    assert case.finish() == 0, case.output()
    return case


def started_from(case: RunCase) -> list[int]:
    """The step that each round but the first resumed after."""
    steps = [launched["step"] for launched in case.journal("LaunchRound")[1:]]
    assert all(isinstance(step, int) for step in steps)
    return [int(str(step)) for step in steps]


def test_durable_snapshots_wait_for_the_optimizer(uninterrupted: RunCase) -> None:
    persisted = [int(str(note["step"])) for note in uninterrupted.journal("Persisted")]
    assert (persisted[0], persisted[-1]) == (12, 60)  # 10 steps into the run, no optimizer had stepped
    assert all(step % EVERY == 0 for step in persisted)  # between them it is for the disk to say which


def test_killed_between_two_optimizer_steps(workspace: Workspace, uninterrupted: RunCase) -> None:
    case = accumulating(workspace, "killed")
    running = case.start()
    for step in (17, 30, 43):  # the first, the second and the third micro-batch of four
        running.wait_for_step(step)
        KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert len(started_from(case)) == 3
    assert all(step % EVERY == 0 for step in started_from(case))
    case.assert_equal_to(uninterrupted)


def test_preempted_between_two_optimizer_steps(workspace: Workspace, uninterrupted: RunCase) -> None:
    case = accumulating(workspace, "preempted", "train.step_seconds=0.05")
    for step in (17, 43):
        running = case.start().wait_for_step(step)
        Preempt().inject(running.target)
        assert running.wait() == 75, case.output()
        left_at = int(case.paths.latest.resolve().name.removeprefix("step-"))
        assert left_at >= step
        assert left_at % EVERY == 0
    assert case.finish() == 0, case.output()
    assert all(step % EVERY == 0 for step in started_from(case))
    case.assert_equal_to(uninterrupted)


def test_the_last_step_is_kept_even_between_two_optimizer_steps(workspace: Workspace) -> None:
    case = accumulating(workspace, "odd", "train.steps=18")
    assert case.finish() == 0, case.output()
    assert case.paths.latest.resolve().name == "step-000000018"
