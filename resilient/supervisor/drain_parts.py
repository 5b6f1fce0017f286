"""Inside the drain: snapshots that several nodes write together.

Each node's drain writes its ranks' images into one directory whose name the leader has chosen, and the leader's makes
it a snapshot. What unfinished directories there are, only the leader knows to be nobody's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotError, StorageFull, TermOver
from resilient.protocol import wire
from resilient.snapshot import catalog
from resilient.snapshot.commit import TEMPORARY, drop, remove_leftovers, require_room
from resilient.snapshot.fencing import require_newest
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.parts import Part, bases_in, committed_from, gather, write_part
from resilient.snapshot.parts import commit_parts as commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.drain_persist import draft_of, images_of, patiently, persisted, tidying
from resilient.supervisor.growing import Unfinished
from resilient.supervisor.metered import MeteredStorage


def persist_part(storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Write this node's images into the directory that all nodes of the run write into.

    Where the request says what retention wants, there is made room for them; where it says how many ranks there are,
    for those of all.
    """
    began, step, staging = time.monotonic(), int(request["step"]), _staging(directory, request)
    tidy = tidying(storage, directory, request) if "retention" in request else None
    answer: wire.Message = {"event": "part_failed", "step": step, "staging": request["staging"]}
    try:
        with ExitStack() as stack:
            draft = replace(draft_of(request), **images_of(stack, storage, directory, request))
            size = sum(len(image) for image in draft.images.values())
            world = max(int(request.get("world_size", 1)), len(draft.images))

            if (base := request.get("base")) is not None:
                draft = replace(draft, bases=bases_in(staging, Part.from_json(base)))
            if not draft.deduplicate:
                require_room(storage, directory, size * world // len(draft.images))

            def attempt() -> Part:
                require_room(storage, directory, draft.least_size)
                return write_part(storage, staging, draft, digests=bool(request.get("digests")))

            part = patiently(storage, directory, attempt, tidy)
    except Unfinished:
        if request["growing"]:
            return {"event": "unfinished", "step": step}
        return {**answer, "problem": f"a slot no longer holds step {step}"}
    except (SnapshotError, StorageFull, OSError) as error:
        return {**answer, "problem": str(getattr(error, "problem", error))}
    return {
        "event": "part_written",
        "step": step,
        "staging": request["staging"],
        "part": part.to_json(),
        "bytes": part.size,
        "image_bytes": part.image_size,
        "seconds": round(time.monotonic() - began, 6),
    }


def commit_parts(storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Make the parts of all nodes a snapshot, unless another node leads the run now."""
    began, step, term = time.monotonic(), int(request["step"]), int(request["term"])
    try:
        manifest = _commit(storage, directory, request)
        catalog.set_aside_late(storage, directory)
    except TermOver as error:
        return {"event": "fenced", "step": step, "term": term, "problem": error.problem}
    except (SnapshotError, StorageFull, OSError) as error:
        return {"event": "persist_failed", "step": step, "problem": str(getattr(error, "problem", error))}
    return persisted(manifest, tidying(storage, directory, request), began)


def _commit(storage: Storage, directory: Path, request: Mapping[str, Any]) -> Manifest:
    staging, draft = _staging(directory, request), draft_of(request)

    def permit() -> None:
        require_newest(directory, draft.term)

    if not staging.is_dir() and (done := committed_from(storage, directory, staging, draft.step)) is not None:
        return done
    parts = [Part.from_json(part) for part in request["parts"]]
    gathered = patiently(storage, directory, lambda: gather(staging, parts, int(request["world_size"])), None)

    def attempt() -> Manifest:
        done = None if staging.is_dir() else committed_from(storage, directory, staging, draft.step)
        return done or commit(storage, directory, staging, draft, gathered, permit=permit)

    return patiently(storage, directory, attempt, tidying(storage, directory, request))


def drop_parts(storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Remove a directory of parts that shall become nothing."""
    drop(storage, _staging(directory, request))
    return {"event": "parts_dropped", "staging": request["staging"]}


def sweep(storage: MeteredStorage, directory: Path, _request: Mapping[str, Any]) -> wire.Message:
    """Remove all unfinished snapshots: whoever still writes into one does it for nothing."""
    return {"event": "swept", "names": [path.name for path in remove_leftovers(storage, directory)]}


def _staging(directory: Path, request: Mapping[str, Any]) -> Path:
    name = str(request["staging"])
    if not name.startswith(TEMPORARY) or "/" in name:
        raise ValueError(f"{name!r} is no name of an unfinished snapshot")
    return directory / name
