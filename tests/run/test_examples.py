"""The examples of several ranks do what their READMEs say."""

from __future__ import annotations

import pytest

from resilient.drill.faults import KillWorker
from resilient.snapshot.compare import first_difference
from tests.run.harness import RunCase, Workspace

SMALL = ("train.layers=1", "train.width=32", "train.block_size=32", "train.max_bytes=200000", "snapshot.every_steps=10")


class Example(RunCase):
    """One of the built-in configurations."""

    def configuration(self) -> str:
        return self.conf


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_rank_is_killed_and_the_run_ends_in_the_same_bits(workspace: Workspace, name: str) -> None:
    whole, killed = (
        Example(workspace, f"{name}-{run}", ["train.steps=30", *SMALL], conf=name, ranks=2)
        for run in ("whole", "killed")
    )
    assert whole.finish() == 0, whole.output()
    running = killed.start().wait_for_step(12)
    KillWorker(1).inject(running.target)
    assert running.wait() == 0, killed.output()
    assert len(killed.journal("LaunchRound")) == 2
    for rank in range(2):
        assert killed.losses(rank) == whole.losses(rank)
        # the scripts do not draw from the other generators, and do not seed them
        assert (
            first_difference(killed.image(30, rank), whole.image(30, rank), ("model", "optimizer", "position")) is None
        )
    assert "step    20  loss" in (killed.paths.root / "logs" / "round-0001" / "rank-00000.log").read_text()
