"""Runs that are preempted, by a real SLURM: each ends as the run did that nothing happened to, bit for bit."""

from __future__ import annotations

from tests.run.conftest import reference as reference
from tests.run.conftest import workspace as workspace
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import submit

# Steps slow enough that SLURM, which acts about once in a second, finds the run in the middle of them.
SLOW = ("train.workers=2", "train.step_seconds=0.05")


def test_a_run_that_is_preempted_comes_back_and_ends_as_if_nothing_had_been(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("preempted", *SLOW)
    job = submit(cluster, case)
    job.wait_for_step(15)
    job.preempt()
    job.wait_for_restart(1)
    assert job.finish().finished, job.text()
    assert job.state == "COMPLETED"
    assert job.restarts == 1
    assert job.began() == [0, 1]
    assert case.incidents() == ["preemption"]
    case.assert_equal_to(reference)
    assert "goes back into the queue" in job.text()
