"""Ranks that share one model: whichever of them is lost, all go on with their own parts, bit for bit."""

from __future__ import annotations

import random

import pytest

from resilient.drill.faults import KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.snapshot import catalog
from resilient.snapshot.image import Layout, read_state
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace

STEPS = 40


def sharded(workspace: Workspace, run_id: str, *settings: str, ranks: int = 2) -> RunCase:
    return workspace.run(run_id, f"worker.ranks={ranks}", *settings, steps=STEPS, conf="spread", ranks=ranks)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to."""
    case = sharded(make_workspace(tmp_path_factory.mktemp("clean")), "clean")
    assert case.finish() == 0, case.output()
    return case


def test_each_rank_stores_its_part_alone(clean: RunCase) -> None:
    images = [Layout.parse(clean.image(STEPS, rank)) for rank in range(2)]
    assert [image.tensors["model.0.weight"].spec.shape for image in images] == [(17, 8), (16, 8)]
    assert [image.tensors["optimizer.state.0.exp_avg"].spec.shape for image in images] == [(17, 8), (16, 8)]
    assert read_state(clean.image(STEPS), images[0])["meshes"][0]["ranks"] == [0, 1]


def test_one_rank_killed_then_the_other_then_preempted(workspace: Workspace, clean: RunCase) -> None:
    case = sharded(workspace, "killed")
    running = case.start()
    for rank, step in enumerate(sorted(random.sample(range(2, 25), 2))):
        running.wait_for_step(step)
        KillWorker(rank).inject(running.target)
    running.wait_for_step(30)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0, case.output()
    assert [launch["source"] for launch in case.journal("LaunchRound")] == [None, "memory", "memory", "local"]
    case.assert_equal_to(clean, STEPS)
    for step in catalog.committed_steps(case.paths.snapshots):
        assert len(catalog.verify(case.paths.snapshot(step)).files) == 2


def test_two_replicas_of_two_parts(workspace: Workspace) -> None:
    settings = ("train.replicas=2", "train.samples=100")
    whole = sharded(workspace, "whole", *settings, ranks=4)
    assert whole.finish() == 0, whole.output()
    case = sharded(workspace, "hybrid", *settings, ranks=4)
    running = case.start().wait_for_step(12)
    KillWorker(3).inject(running.target)
    assert running.wait() == 0, case.output()
    assert len(case.journal("LaunchRound")) == 2
    case.assert_equal_to(whole, STEPS)
