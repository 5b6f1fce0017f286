"""How long a job has when a signal comes, and when it has to leave by itself. Pure: times are passed in.

What SLURM does, as seen with 22.05:

* A *preemption* with ``GraceTime`` sends SIGTERM to the steps at once, but to the batch script only at the end of the
  grace; it sets the job's ``EndTime`` to that end, and ``PreemptTime``. At the end, or at once where there is no
  ``GraceTime``, SIGTERM goes to every process, and SIGKILL after ``KillWait``.
* ``scontrol requeue``, ``scancel`` and the *time limit* send SIGTERM to every process, and SIGKILL after ``KillWait``;
  the job is ``COMPLETING`` from then on.
* ``scancel --signal`` and ``sbatch --signal`` send a signal and nothing else. Nobody kills the job before its
  ``EndTime``. The latter comes up to a minute earlier than asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from resilient.slurm.environment import JobEnvironment
from resilient.slurm.scontrol import Job, Site


class Fate(str, Enum):
    """What is being done to the job."""

    RUNNING = "running"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"  # it is on its way back into the queue already
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Account:
    """What a signal means.

    :param ends: seconds since the epoch at which processes are killed; None for no such time.
    """

    fate: Fate
    ends: float | None


def fate_of(job: Job, environment: JobEnvironment) -> Fate:
    """What is being done to a job, as seen from the inside.

    A job that is ``COMPLETING`` says no more than that; that it goes back into the queue shows in its count of
    restarts, which is raised at once.
    """
    if job.restarts > environment.restarts:
        return Fate.REQUEUED
    if job.state != "RUNNING":
        return Fate.TIMED_OUT if job.reason == "TimeLimit" else Fate.CANCELLED
    return Fate.RUNNING if job.preempted is None else Fate.PREEMPTED


def account(
    job: Job, environment: JobEnvironment, site: Site, signalled: float, partition_grace: float = 0.0
) -> Account:
    """What follows from what the controller says after a signal.

    :param signalled: when it came, in seconds since the epoch.
    :param partition_grace: ``GraceTime`` of the partition.
    """
    fate = fate_of(job, environment)
    if fate in (Fate.REQUEUED, Fate.TIMED_OUT, Fate.CANCELLED):
        return Account(fate, signalled + site.kill_wait)
    if fate is Fate.PREEMPTED and job.preempted is not None:
        # A job without a time limit has no EndTime that would be shown.
        ends = job.preempted + partition_grace if job.ends is None else job.ends
        return Account(fate, ends if ends > signalled else signalled + site.kill_wait)
    return Account(fate, job.ends)


def least_grace(site: Site, partition_grace: float, left: float | None) -> float:
    """Seconds that there are in any case, before the controller has said which case it is.

    :param partition_grace: ``GraceTime`` of the partition; 0 for none.
    :param left: until the job's time is up; None for no limit.
    """
    grace = min(site.kill_wait, partition_grace) if partition_grace > 0 else site.kill_wait
    return grace if left is None or left <= 0 else min(grace, left)


def leave_by(ends: float | None, needed: float, margin: float) -> float | None:
    """When a job has to begin to leave, in seconds since the epoch, so that it is gone when its time is up.

    :param needed: what leaving takes.
    :param margin: what it may take beside that.
    """
    return None if ends is None else ends - needed - margin
