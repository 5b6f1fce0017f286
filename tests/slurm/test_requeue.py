"""Who comes back, and how often: the entries of a journal in, a reason or none out."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resilient.slurm.environment import JobEnvironment
from resilient.slurm.requeue import BEGAN, ENDED, Attempt, attempts, forbidden, spent, without_progress
from resilient.slurm.scontrol import Job
from resilient.slurm.settings import Requeue, SlurmSettings


def began(job: int, restarts: int, step: int) -> dict[str, Any]:
    return {"kind": "note", "name": BEGAN, "job": job, "restarts": restarts, "step": step}


def test_a_journal_tells_how_often_a_job_began() -> None:
    entries = [
        began(7, 0, 0),
        {"name": "RunOpened", "data": {}},
        {"name": ENDED, "reached": 30},
        began(7, 1, 30),
        began(7, 1, 35),  # started again by its batch script: the same restart
        {"name": BEGAN, "job": "?"},
        {"name": BEGAN},
    ]
    assert attempts(entries) == ([Attempt(7, 0, 0), Attempt(7, 1, 30)], 30)


def test_only_starts_in_a_row_of_the_same_job_count() -> None:
    known = [Attempt(6, 0, 30), Attempt(7, 0, 0), Attempt(7, 1, 30), Attempt(7, 2, 30)]
    assert without_progress(known, 7, 30) == 2
    assert without_progress(known, 7, 31) == 0
    assert without_progress(known, 7, 0) == 3
    assert without_progress(known, 8, 0) == 0


def test_a_job_that_never_gets_anywhere_is_given_up_with_the_place() -> None:
    settings = SlurmSettings(max_without_progress=3)
    known = [Attempt(7, 0, 10), Attempt(7, 1, 20), Attempt(7, 2, 20)]
    assert spent(settings, JobEnvironment(7, 2), known, 20) == ""
    known += [Attempt(7, 3, 20)]
    assert "3 times without one new step after step 20" in spent(settings, JobEnvironment(7, 3), known, 20)
    assert spent(settings, JobEnvironment(7, 3), known, 21) == ""


def test_requeues_are_unlimited_unless_somebody_says_how_many() -> None:
    known = [Attempt(7, 500, 20)]
    assert spent(SlurmSettings(), JobEnvironment(7, 500), known, 21) == ""
    assert "come back 2 times" in spent(SlurmSettings(max_requeues=2), JobEnvironment(7, 2), known, 21)
    assert spent(SlurmSettings(max_requeues=2), JobEnvironment(7, 1), known, 21) == ""


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.integers(1, 6))
def test_it_ends_after_so_many_starts_without_progress_and_never_before(steps: list[int], most: int) -> None:
    settings, known, step = SlurmSettings(max_without_progress=most), [], 0
    stuck = 0
    for restarts, gained in enumerate(steps):
        known.append(Attempt(7, restarts, step))
        step += gained
        stuck = 0 if gained else stuck + 1
        assert bool(spent(settings, JobEnvironment(7, restarts), known, step)) == (stuck >= most)
        if stuck >= most:
            return


def test_what_slurm_would_not_take_back() -> None:
    assert forbidden(SlurmSettings(), Job(7, "RUNNING")) == ""
    assert forbidden(SlurmSettings(), None) == ""  # nobody knows; trying tells
    assert "slurm.requeue is never" in forbidden(SlurmSettings(requeue=Requeue.never), Job(7, "RUNNING"))
    assert "--no-requeue" in forbidden(SlurmSettings(), Job(7, "RUNNING", requeue=False))
    assert "batch script" in forbidden(SlurmSettings(), Job(7, "RUNNING", batch=False))
