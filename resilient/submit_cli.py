"""``resilient submit``: a run, or several, as a job of SLURM."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.config import Composed, check_drift, expand_sweep, load
from resilient.errors import ConfigurationError, ExitCode
from resilient.protocol.paths import RunPaths
from resilient.slurm.asking import JobRun, agreed, batch_of, request_of
from resilient.slurm.batch import Batch, render
from resilient.slurm.excluding import distrusted_hosts
from resilient.slurm.indices import parse_indices
from resilient.slurm.sbatch import Client
from resilient.slurm.submission import submit
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.ranks import require_ranks
from resilient.supervisor.start import find_entry_point
from resilient.supervisor.status import Status

_HELP = """\
Submit a run to SLURM: preempted, requeued and resumed by itself, as one job under one log.

  resilient submit conf=mine slurm.partition=gpu slurm.gres=gpu:4 slurm.time=1-00:00:00 worker.ranks=4
  resilient submit conf=mine slurm.nodes=4 worker.ranks=8        on four nodes, with eight ranks on each
  resilient submit conf=mine slurm.time=90 --dry-run             print the batch file and stop
  resilient submit conf=mine -m train.lr=1e-3,1e-4               a job array, with a run for each value
  resilient submit conf=mine slurm.array=0-7%2 'train.seed=${oc.env:SLURM_ARRAY_TASK_ID}'
  resilient submit conf=mine 'slurm.extra={mail-type: END}'      any other option of sbatch
  resilient submit conf=script script=train.py slurm.partition=gpu -- --epochs 3

All is checked first, as `resilient train` does, and what was checked is what the job runs, whatever becomes of the
configuration file meanwhile. The same command again resumes a run whose job is over. The options are the section slurm
of the configuration.
"""
_TASK = "SLURM_ARRAY_TASK_ID"


def add_parser(commands: Any) -> None:
    """Add ``submit`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "submit",
        help="train under supervision, as a job of SLURM",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="conf=NAME and changes to the configuration")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="a job array of all combinations of key=a,b values"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch file; write and submit nothing")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


@dataclass(frozen=True)
class _Job:
    """What one call is about.

    :param home: the run; of an array, what its runs' ids begin with.
    :param finished: runs that need no job any more.
    """

    home: RunPaths
    runs: tuple[JobRun, ...]
    first: Composed
    finished: tuple[RunPaths, ...]


def run(options: argparse.Namespace, conf: str, overrides: Sequence[str]) -> ExitCode:
    """Carry it out.

    :raises ConfigurationError: the configuration, or what is asked of SLURM, is wrong.
    :raises EntryPointMissing: there is nothing to train.
    :raises SchedulerRefused: SLURM takes no such job, has one already, or cannot be reached.
    """
    job = _prepared(conf, overrides, multirun=options.multirun, arguments=options.arguments)
    if not job.runs:
        _say_finished(job, as_json=options.json)
        return ExitCode.FINISHED
    settings = job.first.config.slurm
    request = request_of(settings)
    client = Client(os.environ, settings.command_seconds)
    distrusted = _distrusted(job.runs)
    if distrusted and not options.dry_run:  # sbatch would refuse a name that it does not know
        known = {node.name for node in client.nodes()}
        distrusted = [host for host in distrusted if host in known]
    batch = batch_of(
        job.home,
        job.runs,
        settings,
        directory=Path.cwd(),
        program=_program(),
        distrusted=distrusted,
        nodes=job.first.config.node_settings,
    )
    if options.dry_run:
        text = render(batch)
        print(json.dumps({**_facts(job, batch), "text": text}) if options.json else text.rstrip("\n"))
        return ExitCode.FINISHED
    taken = submit(client, job.home, job.runs, batch, request=request, clock=time.time)
    if taken.waits_for:
        down = ", ".join(taken.waits_for)
        print(f"resilient: partition {down} starts no jobs at the moment; this one waits", file=sys.stderr)
    print(json.dumps(_facts(job, batch, taken.job)) if options.json else "\n".join(_told(job, batch, taken.job)))
    return ExitCode.FINISHED


def _prepared(conf: str, overrides: Sequence[str], *, multirun: bool, arguments: Sequence[str]) -> _Job:
    """Everything that `resilient train` checks, for each of the runs, before the first is submitted."""
    overrides = [re.sub(r"^(?=slurm\.extra[.=])", "++", text) for text in overrides]
    composed: list[tuple[int | None, str, Composed]] = []
    for index, suffix, words in _tasks(conf, overrides, multirun=multirun, arguments=arguments):
        with _as_task(index):
            item = load(conf, words, suffix=suffix, arguments=arguments)
            if more := agreed(item.config.slurm, item.config.node_settings):
                item = load(conf, [*words, *more], suffix=suffix, arguments=arguments)
            composed.append((index, suffix, item))
    runs, finished = [], []
    for index, _, item in composed:
        paths = RunPaths.of(item.config.run.dir, item.config.run.id)
        if _is_finished(paths, item):
            finished.append(paths)
        else:
            runs.append(JobRun(paths, item.to_yaml(), index))
    _, suffix, first = composed[0]
    shared = first.config.run.id.removesuffix(f"-{suffix}") if suffix else first.config.run.id
    return _Job(RunPaths.of(first.config.run.dir, shared), tuple(runs), first, tuple(finished))


def _tasks(
    conf: str, overrides: Sequence[str], *, multirun: bool, arguments: Sequence[str]
) -> Iterator[tuple[int | None, str, list[str]]]:
    """Of each run its index in a job array, what is appended to its id, and its overrides."""
    if multirun:
        # the indices are the numbers of the combinations
        for index, (name, words) in enumerate(expand_sweep(overrides)):
            yield index, name, words
        return
    with _as_task(0):
        array = load(conf, overrides, arguments=arguments).config.slurm.array
    if not array:
        yield None, "", list(overrides)
        return
    indices, _ = parse_indices(array)
    if not indices:
        raise ConfigurationError(f"slurm.array={array} has no indices", "write 0-7%4; %4 alone is for a sweep")
    for index in indices:
        yield index, str(index), list(overrides)


@contextmanager
def _as_task(index: int | None) -> Iterator[None]:
    """Inside, ``${oc.env:SLURM_ARRAY_TASK_ID}`` in a configuration is the index."""
    before = os.environ.get(_TASK)
    if index is not None:
        os.environ[_TASK] = str(index)
    try:
        yield
    finally:
        os.environ.pop(_TASK, None)
        if before is not None:
            os.environ[_TASK] = before


def _is_finished(paths: RunPaths, composed: Composed) -> bool:
    """Check what `resilient train` would only find out in the job; whether there is nothing left to do for it.

    :raises ResilientError: the run could not be started, or not be resumed.
    """
    config = composed.config
    find_entry_point(config.worker, Path.cwd())
    config.remote.require_filesystem()
    if not paths.root.is_dir():
        return False
    memory = RunMemory.place(paths, config.snapshot.memory_dir)
    alone = config.node_settings is None
    require_ranks(paths, memory if alone else None, config.world_size, reshard=config.reshards)
    status = Status.read(paths.status)
    corrected = status is not None and status.came_to_nothing
    changed = check_drift(paths.config, composed, allow=config.run.allow_drift or corrected)
    return status is not None and status.finished and not changed


def _distrusted(runs: Sequence[JobRun]) -> list[str]:
    """Hosts on which one of the runs must not be started again, for now."""
    hosts = {host for run in runs for host in distrusted_hosts(run.paths, "")("")}
    return sorted(hosts)


def _program() -> list[str]:
    """The words that start our own command line, with the Python that we run on."""
    installed = Path(sys.executable).with_name("resilient")
    return [str(installed)] if installed.is_file() else [sys.executable, "-m", "resilient"]


def _log(run: JobRun, number: str) -> Path:
    return run.paths.slurm / (f"{number}.log" if run.index is None else f"{number}_{run.index}.log")


def _facts(job: _Job, batch: Batch, number: str = "") -> dict[str, Any]:
    runs = [
        {
            "id": run.paths.run_id,
            "directory": str(run.paths.root),
            "task": run.index,
            "log": str(_log(run, number)) if number else None,
        }
        for run in job.runs
    ]
    finished = [paths.run_id for paths in job.finished]
    return {"job": number or None, "file": str(batch.path), "runs": runs, "finished": finished}


def _told(job: _Job, batch: Batch, number: str) -> Iterator[str]:
    for paths in job.finished:
        yield f"run {paths.run_id} is finished already and is left out"
    first = job.runs[0]
    log = shlex.quote(_short(_log(first, number)))
    if first.index is None:
        yield f"run {first.paths.run_id} is job {number}"
    else:
        yield f"{len(job.runs)} runs are the tasks of job {number}:"
        yield from (f"  {number}_{run.index}  {run.paths.run_id}" for run in job.runs)
    yield f"  batch file  {shlex.quote(_short(batch.path))}"
    yield f"  log         {log}" + ("" if first.index is None else "  and so on, each with its run")
    yield f"  watch it    squeue --job={number}; tail -F {log}"
    yield f"  stop it     scancel {number}  (it keeps its last snapshot; the same command again goes on from there)"


def _say_finished(job: _Job, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"job": None, "file": None, "runs": [], "finished": [paths.run_id for paths in job.finished]}))
        return
    for paths in job.finished:
        print(f"run {paths.run_id} is finished already. Another run.id begins a new run.")


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
