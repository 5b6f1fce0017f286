"""Ranks that share one model: whichever of them is lost, all go on with their own parts, bit for bit."""

from __future__ import annotations

import json
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


def test_the_run_goes_on_with_other_numbers_of_ranks_and_every_sample_once(workspace: Workspace) -> None:
    case = sharded(workspace, "resharded", "snapshot.every_steps=1000")
    for ranks, step in ((2, 9), (4, 17)):
        running = case.start(f"worker.ranks={ranks}", "run.allow_reshard=true").wait_for_step(step)
        Preempt().inject(running.target)
        assert running.wait() == ExitCode.REQUEUE, case.output()
        newest = catalog.committed_steps(case.paths.snapshots)[-1]
        assert catalog.verify(case.paths.snapshot(newest)).world_size == ranks
    assert case.finish("worker.ranks=1", "run.allow_drift=true") == ExitCode.CONFIG
    assert "run.allow_reshard=true" in case.output()
    assert case.finish("worker.ranks=1", "run.allow_reshard=true") == 0, case.output()
    taken: list[int] = []
    for step in range(1, STEPS + 1):
        of_step = [samples for number in range(3) for samples in _samples(case, number, step)]
        assert of_step, step
        taken += of_step
    assert [sorted(taken[at : at + 52]) for at in range(0, len(taken) - 51, 52)] == [list(range(52))] * (
        len(taken) // 52
    )


def test_the_run_goes_on_over_another_mesh_of_as_many_ranks(workspace: Workspace) -> None:
    case = sharded(workspace, "other-mesh")
    running = case.start().wait_for_step(9)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    other = ("train.replicas=2", "run.allow_drift=true")
    assert case.finish(*other, "restarts.max_failures=1") not in (0, ExitCode.REQUEUE)
    assert "run.allow_reshard=true" in case.output()
    before = catalog.committed_steps(case.paths.snapshots)[-1]
    assert case.finish(*other, "run.allow_reshard=true") == 0, case.output()
    assert case.journal("LaunchRound")[-1]["step"] == before
    image = case.image(STEPS)
    assert read_state(image, Layout.parse(image))["meshes"][0]["names"] == ["replicate", "shard"]


def _samples(case: RunCase, number: int, step: int) -> list[int]:
    """What all ranks of a round were given in a step."""
    found: list[int] = []
    for log in sorted(case.paths.log(number, 0).parent.glob("rank-*.log")):
        for line in log.read_text().splitlines():
            if line.startswith(f"step {step} samples "):
                found += json.loads(line.partition("samples ")[2])
    return found
