"""Time limits, lost nodes and budgets, with a real SLURM."""

from __future__ import annotations

import json
import os
import signal
import time

from resilient.errors import ExitCode
from resilient.protocol.paths import hostname
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job, submit
from tests.slurm.test_preemption import SLOW


def test_a_job_leaves_before_its_time_is_up_and_carries_on_in_the_next(cluster: Cluster, workspace: Workspace) -> None:
    steps = 130
    calm = workspace.run("calm", steps=steps)
    assert calm.finish() == 0, calm.output()
    job = submit(
        cluster, workspace.run("limited", "train.workers=2", "train.step_seconds=0.6", steps=steps), "--time=1"
    )
    job.wait_for_restart(1)
    assert "the time limit is" in job.text()
    assert "over its time limit" not in job.text()
    assert job.finish().finished, job.text()
    assert job.state == "COMPLETED"
    job.case.assert_equal_to(calm, steps)


def test_a_job_whose_node_is_lost_carries_on_on_another(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    job = submit(cluster, workspace.run("lost", *SLOW), "--nodelist=n1")
    job.wait_for_step(25)
    cluster.call("scontrol", "update", f"jobid={job.number}", "reqnodelist=", check=False)
    cluster.kill_node("n1")
    for process in job.case.workspace.processes():
        os.kill(process.pid, signal.SIGKILL)
    cluster.call("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    assert job.finish().finished, job.text()
    assert cluster.job(job.number)["NodeList"] == "n2"
    job.case.assert_equal_to(reference)


def test_a_job_that_makes_no_progress_does_not_come_back_for_ever(cluster: Cluster, workspace: Workspace) -> None:
    job = submit(cluster, workspace.run("stuck", *SLOW, "slurm.max_without_progress=2"))
    for restart in (0, 1):
        job.wait_for_restart(restart)
        job.wait_for_phase("starting")
        job.signal("--signal=TERM")
    status = job.finish()
    assert job.state == "FAILED"
    assert status.exit_code == ExitCode.BUDGET_SPENT, job.text()
    assert "2 times without one new step" in status.diagnosis
    assert job.began() == [0, 1]


def test_a_job_comes_back_as_often_as_it_may_and_no_more(cluster: Cluster, workspace: Workspace) -> None:
    job = submit(cluster, workspace.run("budget", *SLOW, "slurm.max_requeues=1", steps=2000))
    for restart in (0, 1):
        job.wait_for_restart(restart)
        before = max(job.case.losses(), default=0)
        job.wait_for_step(before + 3)
        job.signal("--signal=TERM")
    status = job.finish()
    assert status.exit_code == ExitCode.BUDGET_SPENT, job.text()
    assert "slurm.max_requeues allows no more" in status.diagnosis


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


def test_without_scontrol_the_batch_script_requeues_the_job(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    """As in a container that has none of SLURM's commands."""
    script = """
srun env PATH=/usr/sbin {command}
code=$?
if [ $code -eq 75 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
"""
    job = submit(cluster, workspace.run("container", *SLOW), script=script)
    job.wait_for_step(10)
    job.preempt()
    assert job.finish().finished, job.text()
    assert job.began() == [0, 1]
    assert "scontrol is not installed here" in job.text()
    job.case.assert_equal_to(reference)


def test_a_job_keeps_off_a_distrusted_node_until_that_expires(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    job = submit(cluster, workspace.run("distrusting", *SLOW))
    job.wait_for_step(10)
    first = cluster.job(job.number)["NodeList"]
    _distrust(job, time.time() + 3600)
    job.signal("--signal=TERM")
    job.wait_for_restart(1)
    assert cluster.job(job.number)["NodeList"] != first
    assert cluster.job(job.number)["ExcNodeList"] == first
    job.wait_for_step(20)
    _distrust(job, time.time() - 1)
    job.signal("--signal=TERM")
    job.wait_for_restart(2)
    assert cluster.job(job.number)["ExcNodeList"] == "(null)"
    assert job.finish().finished, job.text()
    job.case.assert_equal_to(reference)


def _distrust(job: Job, until: float) -> None:
    found = {"host": hostname(), "reason": "a test", "incident": 1, "since": 0.0, "until": until}
    job.paths.distrusted.write_text(json.dumps({"format": 1, "nodes": [found]}))
