"""The configuration: that it can be used at all, that what it names exists, and that nobody else has its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from resilient.doctor.check import Check, Look
from resilient.doctor.finding import Finding, note, ok, problem
from resilient.doctor.subject import Subject
from resilient.doctor.world import World
from resilient.errors import ResilientError, RunLocked
from resilient.protocol.lock import kept_idle
from resilient.snapshot.bucket_fsspec import open_bucket
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.ranks import require_ranks
from resilient.supervisor.start import find_entry_point

_REMOTE_SECONDS = 40.0


def _of_subject(look: Callable[[Subject, World], Finding | None]) -> Look:
    def looked(world: World) -> Finding | None:
        if world.subject is None:
            return None
        try:
            return look(world.subject, world)
        except ResilientError as error:
            return problem(error.problem, error.remedy)

    return looked


def _loads(world: World) -> Finding:
    if world.fault is not None:
        return problem(*world.fault)
    if world.subject is None:
        return note("no configuration was named, so only the machine was looked at", "add conf=NAME")
    return ok(f"the configuration of the run {world.subject.paths.run_id} is in order")


def _script(subject: Subject, world: World) -> Finding:
    find_entry_point(subject.worker, world.directory)
    return ok(f"{subject.worker.script or subject.worker.module} exists")


def _remote(subject: Subject, _world: World) -> Finding | None:
    if not subject.remote.enabled:
        return None
    bucket = open_bucket(replace(subject.remote, attempts=2), subject.paths.run_id)
    count = len(bucket.sizes())
    return ok(f"{subject.remote.url} can be listed: {count} objects of this run lie there")


def _ranks(subject: Subject, world: World) -> Finding:
    place = RunMemory.place(subject.paths, subject.snapshot.memory_dir or str(world.shared_memory))
    if (subject.paths.root / "identity").exists():
        shrinks = subject.nodes is not None and subject.nodes.shrinks
        require_ranks(subject.paths, place if subject.nodes is None else None, subject.world_size, reshard=shrinks)
    return ok(f"ranks on this machine: {subject.worker.ranks}")


def _owner(subject: Subject, _world: World) -> Finding:
    try:
        with kept_idle([subject.paths.lock] if subject.paths.lock.exists() else []):
            return ok("nobody else has this run")
    except RunLocked as error:
        return note(f"{error.problem}: it is being trained right now", "nothing, if that is you")


CHECKS = (
    Check("configuration.loads", "whether the configuration can be used", _loads),
    Check("configuration.script", "whether the script exists", _of_subject(_script)),
    Check("configuration.ranks", "whether the run was begun with as many ranks", _of_subject(_ranks)),
    Check("configuration.owner", "whether somebody else has the run", _of_subject(_owner)),
    Check(
        "configuration.remote",
        "whether the remote tier can be listed",
        _of_subject(_remote),
        seconds=_REMOTE_SECONDS,
        stuck=problem(
            f"the remote tier has not answered within {_REMOTE_SECONDS:.0f} s",
            "check the network, a proxy (HTTPS_PROXY) and the service; many clusters have no way out from their nodes",
        ),
    ),
)
