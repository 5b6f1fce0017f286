"""The jobs of a run: which were submitted, and whether one of them is still there.

The run directory remembers the ids (``slurm/jobs.jsonl``). One that was not written down, because the submission was
killed in that very moment, is known by its comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from resilient.protocol.append import AppendOnly
from resilient.protocol.paths import RunPaths

QUEUE_FORMAT = "%A|%F|%K|%T|%k"
"""For ``squeue --array``: see :func:`parse_queue`."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that is not over.

    :param array: the id of the array it belongs to; its own outside one.
    :param task: its index there; None outside one.
    :param state: as SLURM names it, such as ``PENDING``.
    """

    job: str
    array: str
    task: int | None
    state: str
    comment: str

    @property
    def name(self) -> str:
        """As ``scancel`` takes it."""
        return self.job if self.task is None else f"{self.array}_{self.task}"

    def __str__(self) -> str:
        return f"job {self.name} ({self.state.lower()})"


@dataclass(frozen=True)
class Submission:
    """One job of a run, as it was submitted.

    :param task: its index in a job array; None outside one.
    :param at: seconds since the epoch.
    """

    job: str
    task: int | None
    at: float


def parse_queue(shown: str) -> list[QueuedJob]:
    """What ``squeue`` shows in :data:`QUEUE_FORMAT`; lines that are none are left out."""
    found = []
    for line in shown.splitlines():
        parts = line.split("|", 4)
        if len(parts) == 5 and parts[0].isdecimal():
            job, array, task, state, comment = parts
            found.append(QueuedJob(job, array, int(task) if task.isdecimal() else None, state, comment.rstrip()))
    return found


def comment_of(paths: RunPaths) -> str:
    """By what a job of this run is known in the queue."""
    return f"resilient {paths.root}"


def remember(paths: RunPaths, submission: Submission) -> None:
    """Write a job down.

    :raises OSError: that is not possible.
    """
    log = AppendOnly(paths.submissions)
    log.write(f"{json.dumps(asdict(submission))}\n".encode())
    log.close()


def submissions(paths: RunPaths) -> list[Submission]:
    """All that were written down and can be read."""
    try:
        lines = paths.submissions.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return list(_readable(lines))


def _readable(lines: Sequence[str]) -> Iterator[Submission]:
    for line in lines:
        try:
            body = json.loads(line)
            task = body["task"]
            yield Submission(str(body["job"]), None if task is None else int(task), float(body["at"]))
        except (ValueError, KeyError, TypeError):
            continue  # one that was cut short; its job is known by its comment


def still_there(paths: RunPaths, queue: Sequence[QueuedJob]) -> QueuedJob | None:
    """The job of this run that is waiting or running; None if there is none."""
    known = {(submission.job, submission.task) for submission in submissions(paths)}
    ours = (job for job in queue if (job.array, job.task) in known or job.comment == comment_of(paths))
    return next(ours, None)
