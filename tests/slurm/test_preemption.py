"""Runs whose jobs are preempted, requeued and signalled by a real SLURM: each ends as the run did that nothing happened
to, bit for bit.

A return from the queue takes SLURM ten seconds, so each test does several things to a job, or has two jobs, one on
each node.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

import psutil

from resilient.drill.target import DRAIN
from resilient.protocol.paths import hostname
from tests.run.harness import TIMEOUT, RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import SLOW, Job, submit
from tests.trackers.wandb_file import stored

_IN_A_ROW = int(os.environ.get("RESILIENT_PREEMPTIONS", "1"))  # 20 takes a quarter of an hour


def test_two_jobs_of_an_array_are_preempted_and_lose_no_step(cluster: Cluster, workspace: Workspace) -> None:
    steps = 30 * (_IN_A_ROW + 1)
    calm = workspace.run("calm", "train.workers=2", steps=steps)
    assert calm.finish() == 0, calm.output()
    workspace.variables["HOME"] = str(workspace.directory)  # where there is no login
    tracked = ("trackers.wandb.enabled=true", "trackers.wandb.mode=offline", "trackers.end_seconds=60")
    both = [workspace.run(f"member-{index}", *SLOW, *tracked, steps=steps) for index in (0, 1)]
    array = submit(cluster, both[0], "--array=0-1", script="srun {command} run.id=member-$SLURM_ARRAY_TASK_ID")
    jobs = [Job(cluster, case, f"{array.number}_{index}", array.output) for index, case in enumerate(both)]
    for count in range(_IN_A_ROW):
        for job in jobs:
            before = max(job.case.losses(), default=0)
            job.wait_for_restart(count)
            job.wait_for_step(before + 3)
        jobs[0].preempt()
    for job in jobs:
        job.assert_ended_like(calm, restarts=_IN_A_ROW, steps=steps)
        assert job.case.incidents() == ["preemption"] * _IN_A_ROW
        found = stored(job.paths.root)  # one run there, marked as preempted, that has every step
        assert {run for each in found for run in each.run_ids} == {f"{job.case.run_id}-{job.paths.identity()[:10]}"}
        assert {step for each in found for step in each.steps} == set(range(1, steps + 1))
        assert sum(each.preempting for each in found) >= _IN_A_ROW
        assert [each.exit_code for each in found if each.exit_code is not None] == [75] * _IN_A_ROW + [0]
    assert "the job is preempted" in array.text()
    assert "goes back into the queue" in array.text()


def test_preempted_at_start_up_in_evaluation_restore_and_save_by_all_who_can(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    # Both nodes are this machine, whose name is what is distrusted; SLURM alone can tell them apart.
    evaluating = ("train.evaluate_at=20", "train.evaluate_seconds=3", "run.trust_node=true")
    case = workspace.run("moments", *SLOW, *evaluating)
    job = submit(cluster, case)

    job.wait_for_phase("starting")
    first = cluster.job(job.number)["NodeList"]
    _distrust(job, time.time() + 3600)
    job.signal("--signal=TERM")
    job.wait_for_restart(1)
    assert cluster.job(job.number)["ExcNodeList"] == first
    assert cluster.job(job.number)["NodeList"] != first

    job.wait_for_step(20)  # it evaluates now; the step is over, so nothing of it is lost
    _distrust(job, time.time() - 1)
    job.signal("--signal=USR1")  # to the loading processes as well, which it would end
    job.wait_for_restart(2)
    assert cluster.job(job.number)["ExcNodeList"] == "(null)"

    drain = _stopped_drain(job)  # and with it what would be restored
    job.wait_for_phase("restoring")
    cluster.call("scontrol", "requeue", str(job.number))
    job.wait_until(lambda: not drain.is_running(), "the supervisor not to wait for its drain")
    job.wait_for_restart(3)

    job.wait_for_step(40)
    drain = _stopped_drain(job)
    job.signal("--signal=TERM")
    job.wait_for_phase("flushing")
    high = job.claim()
    job.wait_until(lambda: cluster.job(job.number).get("PreemptTime", "None") != "None", "the preemption")
    with suppress(psutil.NoSuchProcess):  # where that took longer than the grace, nobody has waited for it
        drain.resume()
    job.wait_until(lambda: cluster.state(high) == "COMPLETED", "the job that preempts to be over")
    job.assert_ended_like(reference, restarts=4)
    assert "not to be killed before its time limit" in job.text()


def test_in_the_place_of_the_batch_script_and_in_a_container_without_scontrol(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    batch = submit(cluster, workspace.run("batch", *SLOW), script="exec {command}")
    container = submit(
        cluster,
        workspace.run("container", *SLOW),
        script="""
srun env PATH=/usr/sbin {command}
code=$?
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
""",
    )
    batch.wait_for_step(10)
    batch.signal("--signal=USR1", "--batch")
    container.wait_for_step(10)
    container.signal("--signal=TERM")
    for job in (batch, container):
        job.assert_ended_like(reference, restarts=1)
    assert "scontrol is not installed here" in container.text()


def _distrust(job: Job, until: float) -> None:
    found = {"host": hostname(), "reason": "a test", "incident": 1, "since": 0.0, "until": until}
    job.paths.distrusted.write_text(json.dumps({"format": 1, "nodes": [found]}))


def _stopped_drain(job: Job) -> psutil.Process:
    """Stop the drain of the run, as soon as there is one."""
    found: list[psutil.Process] = []

    def is_stopped() -> bool:
        for process in job.case.workspace.processes():
            try:
                if DRAIN in process.cmdline() and str(job.paths.snapshots) in process.cmdline():
                    process.suspend()
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return bool(found)

    deadline = time.monotonic() + TIMEOUT
    while not is_stopped():  # without a pause: it must not get to its first request
        assert time.monotonic() < deadline, job.text()
    return found[0]
