"""How long a job has, by what SLURM was seen to say and do."""

from __future__ import annotations

import pytest

from resilient.slurm.environment import JobEnvironment
from resilient.slurm.grace import Account, Fate, account, fate_of, least_grace, leave_by
from resilient.slurm.scontrol import Job, Site

HERE = JobEnvironment(job=7, restarts=1)
SITE = Site(kill_wait=30.0)
NOW = 1000.0


def job(state: str = "RUNNING", **fields: object) -> Job:
    return Job(7, state, **{"restarts": 1, "ends": NOW + 3600, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "fate"),
    [
        (job(), Fate.RUNNING),
        (job(preempted=NOW, ends=NOW + 20), Fate.PREEMPTED),
        (job("COMPLETING", restarts=2, ends=None), Fate.REQUEUED),
        (job("PENDING", restarts=2, ends=None), Fate.REQUEUED),
        (job("COMPLETING", ends=NOW), Fate.CANCELLED),
        (job("CANCELLED", ends=NOW), Fate.CANCELLED),
        (job("COMPLETING", reason="TimeLimit", ends=NOW), Fate.TIMED_OUT),
        (job("TIMEOUT", reason="TimeLimit", ends=NOW), Fate.TIMED_OUT),
    ],
)
def test_what_is_being_done_to_a_job(seen: Job, fate: Fate) -> None:
    assert fate_of(seen, HERE) is fate


def test_a_preempted_job_has_its_grace_and_afterwards_what_everybody_has() -> None:
    preempted = job(preempted=NOW, ends=NOW + 20)
    assert account(preempted, HERE, SITE, NOW + 1) == Account(Fate.PREEMPTED, NOW + 20)
    assert account(preempted, HERE, SITE, NOW + 25) == Account(Fate.PREEMPTED, NOW + 55)


def test_a_preempted_job_without_a_time_limit_shows_no_end_but_has_the_grace_all_the_same() -> None:
    preempted = job(preempted=NOW, ends=None)
    assert account(preempted, HERE, SITE, NOW + 1, 20.0) == Account(Fate.PREEMPTED, NOW + 20)
    assert account(preempted, HERE, SITE, NOW + 25, 20.0) == Account(Fate.PREEMPTED, NOW + 55)
    assert account(preempted, HERE, SITE, NOW + 1) == Account(Fate.PREEMPTED, NOW + 31)


def test_a_job_that_is_being_ended_has_the_time_between_sigterm_and_sigkill() -> None:
    for seen in (job("COMPLETING", restarts=2, ends=None), job("COMPLETING", ends=NOW)):
        assert account(seen, HERE, SITE, NOW).ends == NOW + 30


def test_a_job_that_somebody_has_only_signalled_has_until_its_time_limit() -> None:
    assert account(job(), HERE, SITE, NOW) == Account(Fate.RUNNING, NOW + 3600)
    assert account(job(ends=None), HERE, SITE, NOW).ends is None


@pytest.mark.parametrize(
    ("partition", "left", "seconds"),
    [(0.0, None, 30.0), (20.0, None, 20.0), (600.0, None, 30.0), (0.0, 12.0, 12.0), (0.0, -3.0, 30.0)],
)
def test_what_is_certain_before_the_controller_has_answered(
    partition: float, left: float | None, seconds: float
) -> None:
    assert least_grace(SITE, partition, left) == seconds


def test_when_a_job_leaves_by_itself() -> None:
    assert leave_by(NOW, 20.0, 5.0) == NOW - 25
    assert leave_by(None, 20.0, 5.0) is None
