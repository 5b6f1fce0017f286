"""Inside the drain: how the images in some slots become durable, with patience where the disk has none to give."""

from __future__ import annotations

import errno
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from resilient.errors import SnapshotError, StorageFull
from resilient.protocol import wire
from resilient.protocol.arena import Slot
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import RetentionSettings
from resilient.protocol.spill import Spill
from resilient.snapshot.commit import Draft, commit, remove_discarded
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.prune import prune
from resilient.snapshot.storage import Storage
from resilient.supervisor.growing import GrowingImages, Unfinished
from resilient.supervisor.metered import MeteredStorage

Done = TypeVar("Done")

_TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY})


def persist(storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> wire.Message:
    """Make the images in the named slots a durable snapshot, then delete what retention no longer wants.

    Some may still be being written. When one of these does not become complete, that is "unfinished" and no failure.
    """
    began, step = time.monotonic(), int(request["step"])
    tidy = tidying(storage, directory, request)
    answer: wire.Message = {"event": "persist_failed", "step": step}
    try:
        with ExitStack() as stack:
            draft = replace(draft_of(request), **images_of(stack, storage, directory, request))
            manifest = patiently(storage, directory, lambda: commit(storage, directory, draft), tidy)
    except Unfinished:
        if request["growing"]:
            return {"event": "unfinished", "step": step}
        return {**answer, "problem": f"a slot no longer holds step {step}"}
    except (SnapshotError, StorageFull, OSError) as error:
        return {**answer, "problem": str(getattr(error, "problem", error))}
    return persisted(manifest, tidy, began)


def persisted(manifest: Manifest, tidy: Callable[[], Sequence[int]], began: float) -> wire.Message:
    """The answer when a snapshot is durable; what retention no longer wants is deleted on the way.

    :param began: on the monotonic clock.
    """
    try:
        removed = list(tidy())
    except OSError as error:  # the new one is durable all the same
        removed = []
        print(f"old snapshots could not be deleted: {error}", file=sys.stderr, flush=True)
    return {
        "event": "persisted",
        "step": manifest.step,
        "identity": manifest.identity,
        "bytes": manifest.size,
        "image_bytes": manifest.image_size,
        "seconds": round(time.monotonic() - began, 6),
        "removed": removed,
    }


def tidying(storage: Storage, directory: Path, request: Mapping[str, Any]) -> Callable[[], list[int]]:
    """What deletes the snapshots that retention, as the request has it, no longer wants."""
    retention, in_use = RetentionSettings.of(request["retention"]), tuple(request.get("in_use", ()))
    return functools.partial(prune, storage, directory, retention, in_use, margin=request.get("margin"))


def draft_of(request: Mapping[str, Any]) -> Draft:
    """What the manifest is to say, without images."""
    return Draft(
        run_id=request["run_id"],
        step=int(request["step"]),
        round=request["round"],
        images={},
        parent=request["parent"],
        versions=request["versions"],
        durations=request.get("durations", {}),
        divergence=request.get("divergence", {}),
        term=int(request.get("term", 0)),
        deduplicate=bool(request.get("deduplicate")),
    )


def images_of(stack: ExitStack, storage: MeteredStorage, directory: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The images in the slots of the request, as parameters of a draft.

    :raises Unfinished: some slot holds another one.
    """
    slots = {int(rank): open_slot(stack, path, directory) for rank, path in request["slots"].items()}
    begun = {int(rank): int(count) for rank, count in request["begun"].items()}
    images = GrowingImages(slots, int(request["step"]), begun, storage.idle)
    contents = {rank: slot.image for rank, slot in slots.items()}
    return {"images": contents, "ready": images.ready, "settle": images.settle}


def patiently(
    storage: Storage, directory: Path, attempt: Callable[[], Done], tidy: Callable[[], Sequence[int]] | None
) -> Done:
    """Do it, again where the disk has failed for a moment, and again with more room where it was full.

    :param tidy: one way to make room; None where that is for others to do.
    """
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, OSError) and error.errno in _TRANSIENT),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_attempt(5),
        reraise=True,
    )
    ways: tuple[Callable[[], Sequence[object]], ...] = ()
    if tidy is not None:
        ways = (lambda: remove_discarded(storage, directory), tidy)
    ways_to_make_room = iter(ways)
    while True:
        try:
            return retry(attempt)
        except StorageFull:
            if not any(make_room() for make_room in ways_to_make_room):  # each is tried once
                raise


def open_slot(stack: ExitStack, path: str, directory: Path) -> Slot:
    """The slot, until the stack is left.

    :param directory: the run's snapshots.
    """
    slot = Slot(Path(path), 0, Spill(RunPaths(directory.parent).memory))
    stack.callback(slot.close)
    return slot
