"""DeepSpeed's engine under `resilient train`: a rank is lost, and the run ends in the same bits."""

from __future__ import annotations

import random

import pytest

from resilient.drill.faults import KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.snapshot.compare import first_difference
from tests.run.harness import Workspace
from tests.run.test_examples import SMALL, Example

STEPS = 24
WAYS = {
    "zero-1": ("train.stage=1", "train.bf16=false", "train.accumulate=1"),
    "zero-2": ("train.stage=2", "train.accumulate=3"),
    "zero-3": ("train.stage=3", "train.accumulate=2"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["zero-2", "zero-3"])
def test_a_rank_is_killed_and_the_run_ends_in_the_same_bits(workspace: Workspace, name: str) -> None:
    settings = [f"train.steps={STEPS}", *SMALL, *WAYS[name]]
    whole, killed = (
        Example(workspace, f"{name}-{run}", settings, conf="deepspeed", ranks=2) for run in ("whole", "killed")
    )
    assert whole.finish() == 0, whole.output()
    running = killed.start().wait_for_step(random.randrange(8, 16))
    KillWorker(1).inject(running.target)
    assert running.wait() == 0, killed.output()
    assert [launch["source"] for launch in killed.journal("LaunchRound")] == [None, "memory"]
    for rank in range(2):
        assert killed.losses(rank) == whole.losses(rank)
        assert len(killed.losses(rank)) == STEPS
        parts = ("model", "optimizer", "scheduler", "engine", "position")
        assert first_difference(killed.image(STEPS, rank), whole.image(STEPS, rank), parts) is None
    assert killed.conflicting_losses() == {}


@pytest.mark.timeout(600)
def test_partitions_are_refused_on_another_number_of_ranks(workspace: Workspace) -> None:
    case = Example(workspace, "fewer", [f"train.steps={STEPS}", *SMALL], conf="deepspeed", ranks=2)
    running = case.start().wait_for_step(8)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish("worker.ranks=1", "run.allow_reshard=true") not in {0, ExitCode.REQUEUE}
    assert "rank 0 of 2 of ZeRO stage 2, and this is rank 0 of 1 of stage 2" in case.output()
