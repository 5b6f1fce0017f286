"""The drain: copies slots to disk, and disk images back into slots, in a process of its own.

A disk that hangs must not hang the supervisor, and hashing must not take its time. The drain only reads what is final
of slots that are held, and only writes slots of workers that are not there; it keeps no state, so it can be killed at
any moment and started again. Run as ``python -m resilient.supervisor.drain_process FD LOCK SNAPSHOTS PARENT [keep]``;
``keep`` is for runs of several nodes, where unfinished snapshots may be another one's.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, SnapshotError
from resilient.policy.lineage import Lineage
from resilient.protocol import job_signals, names, wire
from resilient.protocol.arena import Slot
from resilient.protocol.drill import full_disk, is_drilled
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.commit import remove_discarded, remove_doomed, remove_leftovers
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.fencing import Terms
from resilient.snapshot.lying import read_images
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.storage import Storage
from resilient.supervisor import drain_parts
from resilient.supervisor.drain_persist import open_slot, persist
from resilient.supervisor.metered import MeteredStorage

KEEP = "keep"


def restore(storage: Storage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Read a snapshot into the named slots, verifying every byte; one that fails is quarantined.

    Of several nodes, each has some of the ranks, and reads the images of those.
    """
    began, step = time.monotonic(), int(request["step"])
    snapshot = directory / names.snapshot_name(step)
    try:
        manifest = catalog.read_manifest(snapshot)
        if not Terms.read(directory).count(step, manifest.term):
            raise SnapshotError(f"{snapshot.name} was committed in term {manifest.term}, after its time")
        images = {file.rank: file for file in manifest.files}
        with ExitStack() as stack:
            slots = {int(rank): open_slot(stack, path, directory) for rank, path in request["slots"].items()}
            world_size = int(request.get("world_size") or len(slots))
            if len(images) == world_size and images.keys() >= slots.keys():
                _fill(slots, snapshot, manifest, request["sequence"])
            elif request.get("reshard"):
                catalog.verify(snapshot, cached=True)  # the workers take from it what each of them needs
            else:
                raise SnapshotError(f"{snapshot.name} has images of {len(images)} ranks, the run has {world_size}")
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
    needed = {rank for own in slots for rank in (own, images[own].base) if rank is not None}
    for rank in sorted(needed):
        catalog.require_size(snapshot, images[rank])  # before memory is reserved for it
    for rank, slot in slots.items():
        slot.begin(manifest.step, images[rank].image_size)
    contents = {rank: slot.image for rank, slot in slots.items()}

    def read(wanted: Sequence[tuple[ImageFile, memoryview]]) -> None:
        """A file that is whole goes into the slot of its rank, and not by way of what we have mapped of it."""
        catalog.read_files(
            snapshot, [(file, slots[file.rank].put if file.base is None else into) for file, into in wanted]
        )

    read_images(LocalCopy(snapshot), contents, read)
    for slot in slots.values():
        slot.complete(sequence, {"metrics": dict(manifest.metrics)}, hold=False)


def main(arguments: list[str]) -> int:
    """Answer requests, one at a time, until the supervisor is gone."""
    connection = wire.own_end(arguments)
    die_with_parent(int(arguments[3]))
    job_signals.ignore()
    directory = Path(arguments[2])
    storage = metered(connection, RunPaths(directory.parent))
    directory.mkdir(parents=True, exist_ok=True)
    if arguments[4:] == [KEEP]:
        remove_doomed(storage, directory)
    else:
        remove_leftovers(storage, directory)
    answers = {
        "persist": persist,
        "persist_part": drain_parts.persist_part,
        "commit_parts": drain_parts.commit_parts,
        "drop_parts": drain_parts.drop_parts,
        "sweep": drain_parts.sweep,
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
            answer["staging"] = request.get("staging", "")
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
