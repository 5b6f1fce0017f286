"""The drain: copies slots to disk, and disk images back into slots, in a process of its own.

A disk that hangs must not hang the supervisor, and hashing must not take its time. The drain only reads what is final
of slots that are held, and only writes slots of workers that are not there; it keeps no state, so it can be killed at
any moment and started again. Run as ``python -m resilient.supervisor.drain_process FD LOCK SNAPSHOTS PARENT``.
"""

from __future__ import annotations

import errno
import functools
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tenacity

from resilient.errors import SnapshotCorrupt, SnapshotError, StorageFull
from resilient.policy.lineage import Lineage
from resilient.protocol import job_signals, names, wire
from resilient.protocol.arena import Slot
from resilient.protocol.drill import full_disk, is_drilled
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import RetentionSettings
from resilient.protocol.spill import Spill
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, remove_discarded, remove_leftovers
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.prune import prune
from resilient.snapshot.storage import Storage
from resilient.supervisor.growing import GrowingImages, Unfinished
from resilient.supervisor.metered import MeteredStorage

_TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY})


def persist(storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Make the images in the named slots a durable snapshot, then delete what retention no longer wants.

    Some may still be being written. When one of these does not become complete, that is "unfinished" and no failure.
    """
    began, step = time.monotonic(), int(request["step"])
    retention, in_use = RetentionSettings.of(request["retention"]), tuple(request.get("in_use", ()))
    tidy = functools.partial(prune, storage, directory, retention, in_use, margin=request.get("margin"))
    answer: wire.Message = {"event": "persist_failed", "step": step}
    try:
        with ExitStack() as stack:
            slots = {int(rank): _open(stack, path, directory) for rank, path in request["slots"].items()}
            begun = {int(rank): int(count) for rank, count in request["begun"].items()}
            images = GrowingImages(slots, step, begun, storage.idle)
            draft = Draft(
                run_id=request["run_id"],
                step=step,
                round=request["round"],
                images={rank: slot.image for rank, slot in slots.items()},
                parent=request["parent"],
                versions=request["versions"],
                durations=request.get("durations", {}),
                divergence=request.get("divergence", {}),
                ready=images.ready,
                settle=images.settle,
            )
            manifest = _commit(storage, directory, draft, tidy)
    except Unfinished:
        if request["growing"]:
            return {"event": "unfinished", "step": step}
        return {**answer, "problem": f"a slot no longer holds step {step}"}
    except (SnapshotError, StorageFull, OSError) as error:
        return {**answer, "problem": str(getattr(error, "problem", error))}
    try:
        removed = tidy()
    except OSError as error:  # the new one is durable all the same
        removed = []
        print(f"old snapshots could not be deleted: {error}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    return {
        "event": "persisted",
        "step": step,
        "identity": manifest.identity,
        "bytes": manifest.size,
        "seconds": round(seconds, 6),
        "removed": removed,
    }


def _commit(storage: Storage, directory: Path, draft: Draft, tidy: Callable[[], Sequence[int]]) -> Manifest:
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, OSError) and error.errno in _TRANSIENT),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_attempt(5),
        reraise=True,
    )
    ways_to_make_room: Iterator[Callable[[], Sequence[object]]] = iter(
        (lambda: remove_discarded(storage, directory), tidy)
    )
    while True:
        try:
            return retry(commit, storage, directory, draft)
        except StorageFull:
            if not any(make_room() for make_room in ways_to_make_room):  # each is tried once
                raise


def restore(storage: Storage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Read a snapshot into the named slots, verifying every byte; one that fails is quarantined."""
    began, step = time.monotonic(), int(request["step"])
    snapshot = directory / names.snapshot_name(step)
    try:
        manifest = catalog.read_manifest(snapshot)
        images = {file.rank: file for file in manifest.files}
        with ExitStack() as stack:
            slots = {int(rank): _open(stack, path, directory) for rank, path in request["slots"].items()}
            if images.keys() == slots.keys():
                _fill(slots, snapshot, manifest, request["sequence"])
            elif request.get("reshard"):
                catalog.verify(snapshot)  # the workers take from it what each of them needs
            else:
                raise SnapshotError(f"{snapshot.name} has images of {len(images)} ranks, the run has {len(slots)}")
    except SnapshotCorrupt as error:
        if not snapshot.exists():
            return {"event": "failed", "op": "restore", "step": step, "problem": f"{snapshot} has disappeared"}
        if not catalog.is_damage(error):
            return {"event": "failed", "op": "restore", "step": step, "problem": error.problem}
        kept = catalog.quarantine(storage, snapshot)  # where that fails too, `main` reports it, and nothing is rejected
        return {"event": "rejected", "step": step, "reason": error.problem, "kept_as": kept.name}
    return {
        "event": "restored",
        "step": step,
        "identity": manifest.identity,
        "seconds": round(time.monotonic() - began, 6),
        "durations": dict(manifest.durations),
        "divergence": dict(manifest.divergence),
    }


def set_aside(storage: Storage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Rename what is not on the lineage, so that nobody takes it for a snapshot."""
    steps = catalog.set_aside(storage, directory, Lineage.from_json(request["lineage"]))
    return {"event": "set_aside", "steps": steps}


def delete_discarded(storage: Storage, directory: Path, _request: Mapping[str, Any]) -> wire.Message:
    """Delete what was renamed so."""
    return {"event": "discarded_deleted", "names": remove_discarded(storage, directory)}


def _fill(slots: Mapping[int, Slot], snapshot: Path, manifest: Manifest, sequence: int) -> None:
    images = {file.rank: file for file in manifest.files}
    for file in manifest.files:
        catalog.require_size(snapshot, file)  # before memory is reserved for it
    for rank, slot in slots.items():
        slot.begin(manifest.step, images[rank].checksum.size)
        catalog.read_image(snapshot, images[rank], slot.image)
    for slot in slots.values():
        slot.complete(sequence, {"metrics": dict(manifest.metrics)}, hold=False)


def _open(stack: ExitStack, path: str, directory: Path) -> Slot:
    slot = Slot(Path(path), 0, Spill(RunPaths(directory.parent).memory))
    stack.callback(slot.close)
    return slot


def main(arguments: list[str]) -> int:
    """Answer requests, one at a time, until the supervisor is gone."""
    connection = wire.own_end(arguments)
    die_with_parent(int(arguments[3]))
    job_signals.ignore()
    directory = Path(arguments[2])
    storage = metered(connection, RunPaths(directory.parent))
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(storage, directory)
    answers = {
        "persist": persist,
        "restore": restore,
        "set_aside": set_aside,
        "delete_discarded": delete_discarded,
    }
    while (request := wire.receive(connection)) is not None:
        if request["op"] == "hurry":
            continue  # what was to hurry is done
        storage.start(request.get("write_bytes_per_second", 0.0))
        try:
            answer = {**answers[request["op"]](storage, directory, request), "waited": round(storage.waited, 6)}
        except Exception as error:  # noqa: BLE001  one failed request must not end the drain
            answer = {"event": "failed", "op": request["op"], "step": request["step"], "problem": repr(error)}
        wire.send(connection, answer)
    return 0


def metered(connection: socket.socket, paths: RunPaths) -> MeteredStorage:
    """Storage that tells the supervisor how far it is, and that the supervisor can hurry."""

    def tell(written: int) -> None:
        wire.send(connection, {"event": "progress", "written": written, "waited": storage.waited})

    incoming = select.poll()  # unlike `select` it takes descriptors of any number
    incoming.register(connection, select.POLLIN)

    def is_hurried() -> bool:
        return bool(incoming.poll(0))  # while we are busy, nothing else is sent than this, or the supervisor is gone

    storage: MeteredStorage = MeteredStorage(tell, is_hurried)
    if is_drilled(paths):
        from resilient.supervisor.drilled import FullStorage  # noqa: PLC0415  in a drill, and nowhere else

        storage = FullStorage(tell, is_hurried, full_disk(paths))
    return storage


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
