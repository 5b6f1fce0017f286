"""Whether a job that has to leave comes back: what allows it, and what forbids it. Pure.

A job that is requeued for ever without one new step helps nobody. So the journal has an entry for each time that the
job began, with the step that it could begin from, and those of the same job are counted that began no earlier than
where it ends now. Whoever submits the run again, as another job, has all budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.slurm.environment import JobEnvironment
from resilient.slurm.scontrol import Job
from resilient.slurm.settings import Requeue, SlurmSettings

BEGAN = "slurm job"  # names of the journal's entries
ENDED = "slurm job ended"


@dataclass(frozen=True)
class Attempt:
    """One time that a job began.

    :param step: what it could begin from.
    """

    job: int
    restarts: int
    step: int


def attempts(entries: Iterable[Mapping[str, Any]]) -> tuple[list[Attempt], int]:
    """All that the journal has, the last of each restart, and the step that the last end of a job has reached."""
    found: dict[tuple[int, int], Attempt] = {}
    reached = 0
    for entry in entries:
        try:
            if entry.get("name") == BEGAN:
                attempt = Attempt(int(entry["job"]), int(entry["restarts"]), int(entry["step"]))
                found.setdefault((attempt.job, attempt.restarts), attempt)
            elif entry.get("name") == ENDED:
                reached = int(entry["reached"])
        except (KeyError, TypeError, ValueError):
            continue
    return list(found.values()), reached


def without_progress(known: Sequence[Attempt], job: int, reached: int) -> int:
    """How many times in a row, up to the last, the job began where it is now or later."""
    count = 0
    for attempt in reversed(known):
        if attempt.job != job or attempt.step < reached:
            break
        count += 1
    return count


def spent(settings: SlurmSettings, environment: JobEnvironment, known: Sequence[Attempt], reached: int) -> str:
    """Why the job is not to come back once more; empty if it may.

    :param reached: the step that it would go on from.
    """
    stuck = without_progress(known, environment.job, reached)
    if stuck >= settings.max_without_progress:
        return (
            f"it began {stuck} times without one new step after step {reached}, and slurm.max_without_progress allows "
            "no more. Its time limit or grace may be too short for its start-up and one snapshot; see the journal"
        )
    if settings.max_requeues and environment.restarts >= settings.max_requeues:
        return f"it has come back {environment.restarts} times, and slurm.max_requeues allows no more"
    return ""


def forbidden(settings: SlurmSettings, job: Job | None) -> str:
    """Why SLURM would not take the job back, or is not to be asked; empty if it may be."""
    if settings.requeue is Requeue.never:
        return "slurm.requeue is never"
    if job is not None and not job.batch:
        return "only a job with a batch script can be requeued"
    if job is not None and not job.requeue:
        return "the job was submitted with --no-requeue, or the cluster's JobRequeue is 0"
    return ""
