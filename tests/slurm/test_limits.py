"""Time limits, lost nodes, budgets and refusals, with a real SLURM; two jobs at a time, one on each node."""

from __future__ import annotations

from resilient.errors import ExitCode
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import SLOW, submit


def test_a_job_leaves_before_its_time_is_up_and_one_whose_node_is_lost_comes_back(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    slower = ("train.workers=2", "train.step_seconds=0.6")
    limited = submit(cluster, workspace.run("limited", *slower), "--time=1", "--nodelist=n2")
    lost = submit(cluster, workspace.run("lost", *SLOW), "--nodelist=n1")
    lost.wait_for_step(25)
    cluster.lose_node("n1")
    lost.kill_processes()
    lost.wait_until(lambda: lost.restarts == 1, "the job to be requeued")
    cluster.repair_node("n1")
    limited.wait_for_restart(1)
    assert "the time limit is" in limited.text()
    lost.assert_ended_like(reference, restarts=1)
    limited.finish()
    limited.assert_ended_like(reference, restarts=limited.restarts)  # a busy machine needs more than two minutes
    assert set(limited.case.incidents()) == {"preemption"}
    assert lost.case.incidents() == ["supervisor lost"]
    assert "over its time limit" not in limited.text()


def test_a_job_comes_back_as_often_as_it_may_and_as_it_gets_on_and_no_more(
    cluster: Cluster, workspace: Workspace
) -> None:
    stuck = submit(cluster, workspace.run("stuck", *SLOW, "slurm.max_without_progress=2"))
    counted = submit(cluster, workspace.run("counted", *SLOW, "slurm.max_requeues=1", steps=2000))
    for restart in (0, 1):
        for job in (stuck, counted):
            job.wait_for_restart(restart)
        stuck.wait_for_phase("starting")
        stuck.signal("--signal=TERM")
        counted.wait_for_step(max(counted.case.losses(), default=0) + 3)
        counted.signal("--signal=TERM")
    for job, why in ((stuck, "2 times without one new step"), (counted, "slurm.max_requeues allows no more")):
        status = job.finish()
        assert status.exit_code == ExitCode.BUDGET_SPENT, job.text()
        assert why in status.diagnosis
        assert job.state == "FAILED"
        assert job.began() == [0, 1]


def test_a_cancelled_job_and_one_that_may_not_come_back_say_so(cluster: Cluster, workspace: Workspace) -> None:
    cancelled = submit(cluster, workspace.run("cancelled", *SLOW, steps=2000))
    refused = submit(cluster, workspace.run("refused", *SLOW, steps=2000), "--no-requeue")
    for job in (cancelled, refused):
        job.wait_for_step(5)
    cancelled.signal()
    refused.signal("--signal=TERM")
    assert "was cancelled, so it does not come back" in cancelled.finish().diagnosis
    assert cancelled.state == "CANCELLED"
    status = refused.finish()
    assert status.exit_code == ExitCode.REQUEUE
    assert "submitted with --no-requeue" in status.diagnosis
    assert refused.state == "FAILED"
    assert max(refused.case.losses()) == status.step
