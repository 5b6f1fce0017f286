"""From a checked configuration to a supervised run: take the lock, open the memory, start the helpers, clean up at
the end.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from resilient.errors import (
    EntryPointMissing,
    ExitCode,
    LineageUnreadable,
    RunDirectoryNotWritable,
    StorageFull,
    UntrustedNode,
)
from resilient.policy.decisions import EndRun
from resilient.policy.lineage import Lineage
from resilient.protocol.append import NO_ROOM
from resilient.protocol.distrusted import require_trust
from resilient.protocol.environment import shared_by
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.lock import Owner, RunLock
from resilient.protocol.parent import adopt_orphans, kill_orphans
from resilient.protocol.paths import RunPaths, hostname, node_name
from resilient.protocol.scratch import Scratch
from resilient.protocol.strays import MARK, kill_strays, mark
from resilient.snapshot import catalog
from resilient.supervisor import leftovers
from resilient.supervisor.cold import variables_set_before_import
from resilient.supervisor.console import Console
from resilient.supervisor.drain import Drain
from resilient.supervisor.incident_files import IncidentFiles
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.launcher import Launcher
from resilient.supervisor.loop import Supervisor
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.ranks import require_ranks
from resilient.supervisor.scheduler import Scheduler, Unscheduled
from resilient.supervisor.settings import WorkerSettings
from resilient.supervisor.signals import SignalQueue
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.status import Status
from resilient.supervisor.time_notes import BEGAN, ENDED, age
from resilient.supervisor.tracking import Tracking
from resilient.supervisor.uploads import Uploads
from resilient.supervisor.witness import Witness


def find_entry_point(worker: WorkerSettings, directory: Path) -> WorkerSettings:
    """The settings, with what has to be known about the script before it runs; its path stays as it was given.

    :raises EntryPointMissing: there is no such script or module.
    """
    if worker.module:
        if not _module_exists(worker.module, directory):
            raise EntryPointMissing(
                f"worker.module={worker.module}: there is no such module", "check the name, or install the package"
            )
        return worker
    script = (directory / worker.script).resolve()
    if not script.is_file():
        raise EntryPointMissing(
            f"worker.script={worker.script}: there is no file {script}",
            f"{_nearest_script(script)}check the path; it is relative to this directory",
        )
    return worker


def _nearest_script(script: Path) -> str:
    known = [path.name for path in script.parent.glob("*.py")] if script.parent.is_dir() else []
    close = difflib.get_close_matches(script.name, known, 1)
    return f"did you mean {close[0]}? Otherwise " if close else ""


def warm_or_cold(spec: RunSpec, console: Console) -> RunSpec:
    """The run with nothing preloaded where its script sets what has to come before the imports."""
    if not spec.worker.unmodified or not spec.worker.script or not spec.worker.preload:
        return spec
    names = variables_set_before_import(spec.directory / spec.worker.script)
    if not names:
        return spec
    console.say(f"{spec.worker.script} sets {', '.join(names)} before it imports torch: its rounds start cold")
    return replace(spec, worker=replace(spec.worker, preload=[]))


def _module_exists(module: str, directory: Path) -> bool:
    """Look for it without importing anything: a package's own code may import torch, or whatever else it likes."""
    root, *parts = module.split(".")
    places = [directory / root] if (directory / root).is_dir() else []
    if not places:
        if (directory / f"{root}.py").is_file():
            return not parts
        spec = importlib.util.find_spec(root)
        if spec is None or not spec.submodule_search_locations:
            return spec is not None and not parts
        places = [Path(place) for place in spec.submodule_search_locations]
    paths = [place.joinpath(*parts) for place in places]
    return any(path.is_dir() or any(path.parent.glob(f"{path.name}.*")) for path in paths)


def supervise(
    spec: RunSpec, record_config: Callable[[Journal], bool], console: Console, scheduler: Scheduler | None = None
) -> ExitCode:
    """Supervise the run until it ends on this node.

    :param scheduler: the batch system that this process runs under; None for none.
    :param record_config: called with the journal once the run is ours; compares and saves the configuration, and
        returns whether it has changed since the run was up last.
    :raises ConfigurationError: the remote tier's filesystem is not known, or its package is not installed; or a
        tracker's is not; or the run was begun with another number of ranks.
    :raises UntrustedNode: the run is kept off this machine.
    :raises LineageUnreadable: what was written down of its rollbacks is damaged.
    :raises RequeuesSpent: the batch system has brought it back too often.
    :raises RunLocked: somebody else supervises this run.
    :raises RunDirectoryNotWritable: its directory cannot be used.
    :raises StorageFull: there is no room for what no run can do without.
    """
    with full_disk_named(spec.paths):
        return _supervise(spec, record_config, console, scheduler or Unscheduled(spec.policy.stop))


@contextmanager
def full_disk_named(paths: RunPaths) -> Iterator[None]:
    """A supervisor works inside.

    :raises StorageFull: in place of the system's error where there is no room for what no run can do without.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageFull(
            f"{error.filename or paths.root}: {error.strerror}",
            "free space in the run directory, then start the same command again: it resumes",
        ) from error


def require_what_is_named(spec: RunSpec) -> None:
    """What the configuration names has to be there before anything is done.

    :raises EntryPointMissing: there is no such script or module.
    :raises ConfigurationError: the remote tier's filesystem is not known, or a package is not installed.
    """
    find_entry_point(spec.worker, spec.directory)
    spec.remote.require_filesystem()
    spec.trackers.require_all()


def _supervise(
    spec: RunSpec, record_config: Callable[[Journal], bool], console: Console, scheduler: Scheduler
) -> ExitCode:
    require_what_is_named(spec)
    paths = spec.paths
    with ExitStack() as stack:
        signals = SignalQueue()
        stack.callback(signals.close)
        stack.callback(scheduler.leave)  # its order ends us too, so everything else is done by then
        paths.create()
        strays: list[int] = []
        lock = RunLock(paths.lock, hostname(), end_remains=lambda: strays.extend(kill_strays_of(paths)))
        stack.callback(lock.release)
        paths.clear_fresh()
        journal = open_journal(paths)
        stack.callback(journal.close)
        place = RunMemory.place(paths, spec.snapshot.memory_dir)
        # before anything is recorded that says otherwise
        require_ranks(paths, place, spec.policy.ranks, reshard=spec.allow_reshard)
        spec = replace(spec, lineage=lineage_of(paths))
        changed = record_config(journal)
        status = Status.read(paths.status)
        if status is not None and status.finished and not changed:
            leftovers.remove_own(place, paths)
            Scratch(paths.identity()).remove()
            console.say(f"run {paths.run_id} is finished already ({status.diagnosis}) Another run.id begins a new run.")
            return ExitCode.FINISHED
        if strays := [*strays, *kill_strays_of(paths)]:
            console.say(f"killed what an earlier supervisor of this run had left: {', '.join(map(str, strays))}")
            journal.write("note", "strays killed", 0.0, processes=strays)
        console.say(f"run {paths.run_id} in {paths.root}")
        durable = max(catalog.committed_steps(paths.snapshots), default=0)
        entries = read_journal(paths.journal)
        scheduler.begin(entries, None if spec.worker.unmodified else durable, journal, console.say)
        require_trusted_node(spec, console, scheduler, durable)
        spec = warm_or_cold(spec, console)
        policy = replace(spec.policy, seed=paths.run_id, rolls_back=not spec.worker.unmodified)
        spec = replace(spec, policy=policy, takeover=lock.predecessor is not None, versions=installed_versions())
        return _supervise_owned(spec, lock.fileno(), signals, journal, console, scheduler=scheduler)


def require_trusted_node(spec: RunSpec, console: Console, scheduler: Scheduler, durable: int) -> None:
    """Nothing, on a machine that nobody distrusts; on another the scheduler may have the run started elsewhere.

    :param durable: newest durable step.
    :raises UntrustedNode: the run is kept off this machine.
    """
    if spec.trust_node:
        return
    try:
        require_trust(spec.paths)
    except UntrustedNode as error:
        ended = scheduler.conclude(EndRun(error.exit_code, error.problem), durable)
        raise UntrustedNode(ended.diagnosis, error.remedy) from error
    except ValueError as error:  # it may name another machine, or none
        console.say(f"WARNING: {error}; no machine is distrusted")


def _supervise_owned(
    spec: RunSpec, lock: int, signals: SignalQueue, journal: Journal, console: Console, *, scheduler: Scheduler
) -> ExitCode:
    """Supervise a run that is ours, with its helpers and its memory; afterwards no process of it is left."""
    paths, logs = spec.paths, spec.paths.root / "logs"
    journal.write("note", BEGAN, time.monotonic(), host=hostname(), age=age())
    place = RunMemory.place(paths, spec.snapshot.memory_dir)
    leftovers.clear(place.parent, place, console.say)
    memory = RunMemory(place, spec.policy.ranks, spec.snapshot.slots, paths.identity(), paths.root)
    with ExitStack() as stack:
        adopt_orphans()
        stack.callback(kill_orphans, keep=())
        ours = marked(paths)
        launcher = Launcher(
            spec.worker.preload,
            lock=lock,
            log=logs / "forkserver.log",
            scratch=Scratch(paths.identity()),
            environment={**shared_by(spec.policy.ranks), **spec.worker.env, **ours},
        )
        stack.callback(launcher.close)
        drain = Drain(paths.snapshots, lock=lock, log=logs / "drain.log")
        stack.callback(drain.close)
        uploads = None
        if spec.remote.enabled:
            uploads = Uploads(spec.remote, paths.snapshots, paths.run_id, lock=lock, log=logs / "uploads.log")
            stack.callback(uploads.close)
        tracking = Tracking(spec.trackers, paths, journal=journal, console=console, clock=time.monotonic)
        stack.callback(tracking.close)
        witness = Witness(
            paths,
            IncidentFiles(paths, console.say),
            clock=time.monotonic,
            environment=spec.worker.env,
            versions=spec.versions,
        )
        stack.callback(witness.close)
        supervisor = Supervisor(
            spec,
            memory=memory,
            launcher=launcher,
            drain=drain,
            uploads=uploads,
            signals=signals,
            witness=witness,
            tracking=tracking,
            journal=journal,
            console=console,
            clock=time.monotonic,
            environment=ours,
            scheduler=scheduler,
        )
        exit_code = supervisor.run()
    journal.write("note", ENDED, time.monotonic(), exit_code=int(exit_code))
    if supervisor.memory_is_durable:
        memory.remove()
    else:
        console.say(f"the newest state is still in {memory.directory}, until this machine is switched off")
        memory.close()
    return exit_code


def marked(paths: RunPaths) -> dict[str, str]:
    """Variables that mark what we start as ours."""
    return {MARK: mark(f"{paths.identity()}@{node_name()}", Owner.current(hostname()))}


def lineage_of(paths: RunPaths) -> Lineage | None:
    """What is written down of the run's rollbacks; None where nothing is.

    :raises LineageUnreadable: what is written down is damaged.
    """
    if not paths.lineage.exists():
        return None
    try:
        return read_lineage(paths)
    except (ValueError, OSError) as error:
        raise LineageUnreadable(
            f"{paths.lineage} cannot be read: {error}",
            "restore the file if you can; without it the run begins with what its newest snapshot says of rollbacks",
        ) from error


def kill_strays_of(paths: RunPaths) -> list[int]:
    """End what an earlier supervisor of this run has left on this node; returns the process numbers."""
    return kill_strays(f"{paths.identity()}@{node_name()}", hostname())


def open_journal(paths: RunPaths) -> Journal:
    """:raises RunDirectoryNotWritable: there can be none."""
    try:
        return Journal(paths.journal)
    except OSError as error:
        raise RunDirectoryNotWritable(
            f"{paths.journal} cannot be written: {error.strerror}", "check its permissions"
        ) from error


def installed_versions() -> dict[str, str]:
    """What a snapshot's manifest says of this installation."""
    return {name: importlib.metadata.version(name) for name in ("resilient", "torch")}
