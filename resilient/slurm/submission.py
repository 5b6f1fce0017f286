"""Submitting: look whether it can work, lay the files out, hand the job over, write down its id.

A job that SLURM takes begins at once, maybe, so its files lie there before; if SLURM does not take it, they are as they
were before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from resilient.errors import JobQueued, RunDirectoryNotWritable, SchedulerRefused, SchedulerSilent
from resilient.protocol.lock import kept_idle
from resilient.protocol.paths import RunPaths
from resilient.slurm.asking import JobRun
from resilient.slurm.batch import Batch, render
from resilient.slurm.jobs import Submission, remember, still_there
from resilient.slurm.partitions import Partition, Request, named, objection
from resilient.slurm.sbatch import Client

_PATIENCE_SECONDS = 180.0  # longer than SLURM is given to answer
_POLL_SECONDS = 0.1
# NFS locks no directory. Then of two submissions at the very same time both may be taken; the supervisor that comes
# second finds the run locked.
_NO_LOCKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP})


@dataclass(frozen=True)
class Taken:
    """A job that SLURM has taken.

    :param waits_for: partitions that start no job at the moment, if it can start in no other.
    """

    job: str
    waits_for: tuple[str, ...] = ()


def submit(
    client: Client,
    home: RunPaths,
    runs: Sequence[JobRun],
    batch: Batch,
    *,
    request: Request,
    clock: Callable[[], float],
    patience: float = _PATIENCE_SECONDS,
) -> Taken:
    """Submit the batch file.

    :param clock: seconds since the epoch.
    :param patience: seconds to wait until another submission is through.
    :raises JobQueued: one of the runs is in the queue, or on a node.
    :raises RunLocked: one of the runs has a supervisor.
    :raises SchedulerRefused: the job could never start, SLURM does not take it, or cannot be reached.
    :raises RunDirectoryNotWritable: a run directory cannot be written.
    """
    text = render(batch)
    concerned = list(dict.fromkeys([home, *(run.paths for run in runs)]))
    with _placed() as directories, ExitStack() as stack:
        for directory in sorted({paths.root.parent for paths in concerned}):
            directories.directory(directory)
            stack.enter_context(_alone(directory, patience))
        with _placed() as placed:  # what is undone is undone before somebody else may begin
            for paths in concerned:
                placed.directory(paths.slurm)
            _require_idle(client, concerned)
            partitions = _require_possible(client, request)
            _lay_out(placed, home, runs)
            placed.file(batch.path, text)
            placed.handed_over = True
            job = client.submit(batch, partitions)
        for paths, index in [(home, None), *((run.paths, run.index) for run in runs if run.index is not None)]:
            with suppress(OSError):  # then its comment tells that it is there
                remember(paths, Submission(job, index, clock()))
    meant = request.may_run_in(partitions)
    waits = () if any(partition.state == "UP" for partition in meant) else tuple(item.name for item in meant)
    return Taken(job, waits)


def _lay_out(placed: _Placed, home: RunPaths, runs: Sequence[JobRun]) -> None:
    for run in runs:
        placed.file(run.file, run.configuration)
        if run.index is not None:  # a job's log lies with its run, though sbatch is told nothing but the task's number
            placed.link(home.slurm / "tasks" / str(run.index), run.paths.slurm)


def _require_idle(client: Client, all_paths: Sequence[RunPaths]) -> None:
    queue = client.queue()
    for paths in all_paths:
        if (job := still_there(paths, queue)) is not None:
            raise JobQueued(
                f"the run {paths.run_id} has a job already: {job}",
                f"let it go on, or end it first: scancel {job.name}; another run needs another run.id",
            )
    for paths in all_paths:
        with kept_idle(paths.locks()):
            pass


def _require_possible(client: Client, request: Request) -> list[Partition]:
    partitions = client.partitions()
    found = objection(request, partitions, client.nodes() if request.cpus > 1 else [])
    if found is not None:
        raise SchedulerRefused(f"slurm.{found.setting}: {found.problem}", named(partitions))
    return partitions


@contextmanager
def _alone(directory: Path, patience: float) -> Iterator[None]:
    """Submissions of runs in one directory follow each other, and the second of a run sees the job of the first."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    began = time.monotonic()
    try:
        while not _locked(descriptor):
            if time.monotonic() - began > patience:
                raise JobQueued(f"another submission to {directory} does not come to an end", "try again after it")
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


@dataclass
class _Placed:
    """What was laid out, and how to undo it.

    :param handed_over: SLURM was given the job.
    """

    undo: list[Callable[[], object]] = field(default_factory=list)
    handed_over: bool = False

    def directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self.directory(path.parent)
        path.mkdir(exist_ok=True)
        self.undo.append(lambda: _remove_empty(path))

    def file(self, path: Path, text: str) -> None:
        before = path.read_bytes() if path.exists() else None
        self.undo.append(lambda: path.unlink(missing_ok=True) if before is None else _write(path, before))
        _write(path, os.fsencode(text))

    def link(self, path: Path, target: Path) -> None:
        self.directory(path.parent)
        before = path.readlink() if path.is_symlink() else None
        relative = Path(os.path.relpath(target, path.parent))
        if before == relative:
            return
        _point(path, relative)
        self.undo.append(lambda: _point(path, before))


@contextmanager
def _placed() -> Iterator[_Placed]:
    placed = _Placed()
    try:
        yield placed
    except BaseException as error:
        refused = isinstance(error, SchedulerRefused) and not isinstance(error, SchedulerSilent)
        if refused or not placed.handed_over:  # else the job may be there, and need its files
            _undo(placed)
        if not isinstance(error, OSError):
            raise
        raise RunDirectoryNotWritable(
            f"{error.filename or 'the run directory'} cannot be written: {error.strerror}",
            "check its permissions and its free space, or choose another place with run.dir=…",
        ) from error


def _undo(placed: _Placed) -> None:
    for undo in reversed(placed.undo):
        with suppress(OSError):
            undo()


def _remove_empty(path: Path) -> None:
    path.rmdir()


def _point(path: Path, target: Path | None) -> None:
    path.unlink(missing_ok=True)
    if target is not None:
        path.symlink_to(target)


def _write(path: Path, data: bytes) -> None:
    fresh = RunPaths.fresh(path)
    fresh.write_bytes(data)
    fresh.replace(path)
