"""Which jobs belong to a run."""

from __future__ import annotations

from pathlib import Path

from resilient.protocol.paths import RunPaths
from resilient.slurm.jobs import QueuedJob, Submission, comment_of, parse_queue, remember, still_there, submissions

# As printed by squeue 22.05: a pending array, one of its tasks running, a job with a comment of its own.
SHOWN = """\
4|3|0|RUNNING|resilient /runs/a b
3|3|1|PENDING|resilient /runs/a b
17|17|N/A|PENDING|with | and é
18|18|N/A|COMPLETING|(null)
slurm_load_jobs error: something that is no job
"""
QUEUE = parse_queue(SHOWN)


def _paths(directory: Path, *known: Submission) -> RunPaths:
    paths = RunPaths.of(directory, "a")
    paths.slurm.mkdir(parents=True)
    for submission in known:
        remember(paths, submission)
    return paths


def test_the_queue_is_read() -> None:
    assert [
        QueuedJob("4", "3", 0, "RUNNING", "resilient /runs/a b"),
        QueuedJob("3", "3", 1, "PENDING", "resilient /runs/a b"),
        QueuedJob("17", "17", None, "PENDING", "with | and é"),
        QueuedJob("18", "18", None, "COMPLETING", "(null)"),
    ] == QUEUE
    assert [str(job) for job in QUEUE[1:3]] == ["job 3_1 (pending)", "job 17 (pending)"]


def test_a_job_that_was_written_down_is_found(tmp_path: Path) -> None:
    assert still_there(_paths(tmp_path, Submission("9", None, 1.0), Submission("18", None, 2.0)), QUEUE) == QUEUE[3]


def test_a_job_that_was_not_is_known_by_its_comment(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    assert still_there(paths, QUEUE) is None
    ours = QueuedJob("20", "20", None, "PENDING", comment_of(paths))
    assert still_there(paths, [*QUEUE, ours]) == ours


def test_another_task_of_the_same_array_is_another_run(tmp_path: Path) -> None:
    assert still_there(_paths(tmp_path, Submission("3", 1, 1.0)), QUEUE) == QUEUE[1]
    assert still_there(_paths(tmp_path / "other", Submission("3", 7, 1.0)), QUEUE) is None


def test_a_line_that_was_cut_short_loses_no_other(tmp_path: Path) -> None:
    first, second = Submission("1", None, 1.0), Submission("2", 3, 2.0)
    paths = _paths(tmp_path, first)
    with paths.submissions.open("a") as stream:
        stream.write('{"job": "5", "ta')
    remember(paths, second)
    assert submissions(paths) == [first, second]


def test_a_run_that_was_never_submitted_has_no_jobs(tmp_path: Path) -> None:
    assert submissions(RunPaths.of(tmp_path, "a")) == []
