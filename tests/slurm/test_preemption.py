"""Runs whose jobs are preempted, requeued and signalled by a real SLURM: each ends as the run did that nothing happened
to, bit for bit.
"""

from __future__ import annotations

import os

import psutil

from resilient.drill.target import DRAIN
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job, submit

# Steps slow enough that SLURM, which acts about once in a second, finds the run in the middle of them.
SLOW = ("train.workers=2", "train.step_seconds=0.05")
_IN_A_ROW = int(os.environ.get("RESILIENT_PREEMPTIONS", "3"))


def _ends_like(job: Job, reference: RunCase, *, restarts: int, steps: int = 60) -> None:
    """The job is over, its run is finished and is what it should be, and every restart was seen."""
    assert job.finish().finished, job.text()
    assert job.state == "COMPLETED"
    assert job.restarts == restarts
    assert job.began() == list(range(restarts + 1))
    job.case.assert_equal_to(reference, steps)


def test_a_run_that_is_preempted_comes_back_and_ends_as_if_nothing_had_been(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    job = submit(cluster, workspace.run("preempted", *SLOW))
    job.wait_for_step(15)
    job.preempt()
    _ends_like(job, reference, restarts=1)
    assert job.case.incidents() == ["preemption"]
    assert "the job is preempted" in job.text()
    assert "goes back into the queue" in job.text()


def test_preemptions_in_a_row_cost_no_step(cluster: Cluster, workspace: Workspace) -> None:
    steps = 20 * (_IN_A_ROW + 1)
    calm = workspace.run("calm", "train.workers=2", steps=steps)
    assert calm.finish() == 0, calm.output()
    job = submit(cluster, workspace.run("row", *SLOW, steps=steps))
    for count in range(1, _IN_A_ROW + 1):
        before = max(job.case.losses(), default=0)
        job.wait_for_restart(count - 1)
        job.wait_for_step(before + 3)
        job.preempt()
    _ends_like(job, calm, restarts=_IN_A_ROW, steps=steps)


def test_the_jobs_of_an_array_are_runs_of_their_own(cluster: Cluster, workspace: Workspace, reference: RunCase) -> None:
    both = [workspace.run(f"member-{index}", *SLOW) for index in (0, 1)]
    first = submit(
        cluster,
        both[0],
        "--array=0-1",
        script="srun {command} run.id=member-$SLURM_ARRAY_TASK_ID",
    )
    jobs = {case.run_id: Job(cluster, case, first.number, first.output) for case in both}
    for job in jobs.values():
        job.wait_for_step(10)
        # of the array, one has the number that sbatch has told, and the other one the next
        job.number = int(job.notes("slurm job")[0]["job"])
    assert len({job.number for job in jobs.values()}) == 2
    first.preempt()
    for job in jobs.values():
        _ends_like(job, reference, restarts=1)


def test_signals_and_a_requeue_from_outside(cluster: Cluster, workspace: Workspace, reference: RunCase) -> None:
    """Three ways to have a job make way by hand, one after the other."""
    job = submit(cluster, workspace.run("signalled", *SLOW))
    job.wait_for_step(10)
    job.signal("--signal=TERM")
    job.wait_for_restart(1)
    job.wait_for_step(20)
    job.signal("--signal=USR1")  # to the loading processes as well, which it would end
    job.wait_for_restart(2)
    job.wait_for_step(30)
    cluster.call("scontrol", "requeue", str(job.number))
    _ends_like(job, reference, restarts=3)
    assert "not to be killed before its time limit" in job.text()
    assert "the job is being requeued" in job.text()
    assert set(job.case.incidents()) == {"preemption"}


def test_a_supervisor_in_the_place_of_the_batch_script_is_told_by_batch_signals(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    job = submit(cluster, workspace.run("batch", *SLOW), script="exec {command}")
    job.wait_for_step(10)
    job.signal("--signal=USR1", "--batch")
    job.wait_for_restart(1)
    job.wait_for_step(20)
    _ends_like(job, reference, restarts=1)


def test_preempted_during_start_up_restore_evaluation_and_another_save(
    cluster: Cluster, workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("moods", *SLOW, "train.evaluate_at=20", "train.evaluate_seconds=3")
    job = submit(cluster, case)

    job.wait_for_phase("starting")
    job.signal("--signal=TERM")
    job.wait_for_restart(1)

    job.wait_for_step(20)  # it evaluates now; the step is over, so nothing of it is lost
    job.signal("--signal=TERM")
    restart = _stopped_drain(job, 2)  # and with it what would be restored
    job.wait_for_phase("restoring")
    job.signal("--signal=TERM")
    job.wait_until(lambda: not restart.is_running(), "the supervisor not to wait for its drain")
    job.wait_for_restart(3)

    job.wait_for_step(40)
    drain = _drain(job)
    assert drain is not None
    drain.suspend()
    job.signal("--signal=TERM")
    job.wait_for_phase("flushing")
    high = job.claim()
    job.wait_until(lambda: cluster.job(job.number).get("PreemptTime", "None") != "None", "the preemption")
    drain.resume()
    job.wait_until(lambda: cluster.state(high) == "COMPLETED", "the other job")
    _ends_like(job, reference, restarts=4)


def _drain(job: Job) -> psutil.Process | None:
    """The drain of the run, if it is up."""
    for process in job.case.workspace.processes():
        try:
            if DRAIN in process.cmdline() and str(job.paths.snapshots) in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def _stopped_drain(job: Job, restart: int) -> psutil.Process:
    """Stop the drain of this restart before it can have done anything."""
    job.wait_for_restart(restart)
    found: list[psutil.Process] = []

    def stopped() -> bool:
        drain = _drain(job)
        if drain is not None:
            drain.suspend()
            found.append(drain)
        return drain is not None

    job.wait_until(stopped, "the drain to be there")
    return found[0]
