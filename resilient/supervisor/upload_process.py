"""The uploader: copies committed snapshots to the remote tier, and remote ones back into slots or to the local tier,
as its own process.

A network that hangs must delay neither the supervisor nor the drain, and neither of them imports fsspec. It reads local
snapshots, which never change, and keeps no state: it can be killed at any moment, and the next one finds what lies
there already. Run as ``python -m resilient.supervisor.upload_process FD LOCK SNAPSHOTS PARENT RUN_ID SETTINGS``.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from resilient.errors import RemoteUnavailable, ResilientError, SnapshotCorrupt, SnapshotError
from resilient.policy.lineage import Lineage
from resilient.protocol import job_signals, names, wire
from resilient.protocol.arena import Slot
from resilient.protocol.parent import die_with_parent
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog, pins
from resilient.snapshot.bucket_fsspec import open_bucket
from resilient.snapshot.copies import read_files
from resilient.snapshot.fencing import Terms
from resilient.snapshot.fetch import fetch
from resilient.snapshot.lying import read_images
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.remote import RemoteItem, RemoteTier, current
from resilient.snapshot.standing import Standing
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import Pace, upload

_MOST_LISTED = 1000  # a message has a largest size, and nobody resumes from the thousandth newest


class Uploader:
    """Answers requests about one run's snapshots, here in ``directory`` and there in the remote tier."""

    def __init__(self, directory: Path, run_id: str, settings: RemoteSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._tier = RemoteTier(open_bucket(settings, run_id))
        self._pace = Pace(settings.bytes_per_second)

    def answer(self, request: Mapping[str, Any]) -> wire.Message:
        operation = {"list": self._list, "upload": self._upload, "restore": self._restore}[request["op"]]
        try:
            return operation(request)
        except ResilientError as error:
            return failed(request, error.problem)

    def _list(self, _request: Mapping[str, Any]) -> wire.Message:
        items = self._tier.items()
        terms = Terms.read(self._directory)
        counting = [item for item in items if item.manifest and terms.count(item.step, item.manifest.term)]
        known = [item.manifest for item in current(counting).values() if item.manifest is not None]
        newest = max(known, key=lambda manifest: manifest.created, default=None)
        found = [(each.step, each.identity, each.created, each.round, each.term) for each in known]
        return {
            "event": "listed",
            "snapshots": found[-_MOST_LISTED:],
            "damaged": sum(not item.loadable for item in items),
            "lineage": None if newest is None else newest.divergence.get("lineage"),
        }

    def _upload(self, request: Mapping[str, Any]) -> wire.Message:
        began, step = time.monotonic(), int(request["step"])
        snapshot = self._directory / names.snapshot_name(step)
        try:
            if not self._standing(request).counts(catalog.read_manifest(snapshot)):
                return failed(request, "it does not count any more", lost=True)
            done = upload(self._tier.bucket, snapshot, self._pace)
        except SnapshotCorrupt as error:
            gone = not snapshot.exists()
            why = "it has been deleted here meanwhile" if gone else f"the local copy is damaged: {error.problem}"
            return failed(request, why, lost=True)
        removed, problem = self._tidy(self._standing(request))
        return {
            "event": "uploaded",
            "step": step,
            "identity": done.manifest.identity,
            "created": done.manifest.created,
            "round": done.manifest.round,
            "term": done.manifest.term,
            "bytes": done.manifest.size,
            "sent": done.sent,
            "seconds": round(time.monotonic() - began, 6),
            "removed": removed,
            "problem": problem,
        }

    def _standing(self, request: Mapping[str, Any]) -> Standing:
        return Standing(Lineage.from_json(request["lineage"]), terms=Terms.read(self._directory))

    def _tidy(self, standing: Standing) -> tuple[list[int], str]:
        """Delete what rollbacks have discarded, what retention does not want, and what uploads that nobody will take up
        again have left.
        """
        try:
            self._tier.delete_off(standing)
            removed = self._tier.prune(
                self._settings.retention,
                lambda step: pins.is_pinned(self._directory, step),
                standing=standing,
            )
            self._tier.remove_leftovers(keep=())
        except RemoteUnavailable as error:
            return [], error.problem
        return removed, ""

    def _restore(self, request: Mapping[str, Any]) -> wire.Message:
        """Read a snapshot into the named slots, or make it one here; every byte is verified. One that fails is marked,
        and another copy of the same step is taken, if there is one.
        """
        began, step = time.monotonic(), int(request["step"])
        reasons = []
        bring = self._fetch if request["fetch"] else self._read_into
        standing = self._standing(request)
        for item in sorted(self._tier.items(), key=_created, reverse=True):
            if item.step != step or not item.loadable or not _is_on(item, standing):
                continue
            try:
                manifest = bring(item, request)
            except SnapshotCorrupt as error:
                kept = "marked" if self._tier.mark(item, error.problem) else "not marked, for we may not write there"
                reasons.append(f"{error.problem} ({kept})")
                continue
            return {
                "event": "fetched" if request["fetch"] else "restored",
                "step": step,
                "identity": manifest.identity,
                "seconds": round(time.monotonic() - began, 6),
                "durations": dict(manifest.durations),
                "divergence": dict(manifest.divergence),
            }
        reason = "; ".join(reasons) or "it is no longer there, or damaged"
        return {"event": "rejected", "step": step, "reason": reason, "kept_as": "it was"}

    def _fetch(self, item: RemoteItem, _request: Mapping[str, Any]) -> Manifest:
        copy = self._tier.copy(item)
        fetch(Storage(), self._directory, copy)
        return copy.manifest

    def _read_into(self, item: RemoteItem, request: Mapping[str, Any]) -> Manifest:
        copy = self._tier.copy(item)
        images = {file.rank: file for file in copy.manifest.files}
        with ExitStack() as stack:
            slots = {int(rank): _open(stack, path) for rank, path in request["slots"].items()}
            if images.keys() != slots.keys():
                raise SnapshotError(f"{item.name} has images of {len(images)} ranks, the run has {len(slots)}")
            for rank, slot in slots.items():
                # the listing has compared sizes with those of the objects, so memory is not reserved for nothing
                slot.begin(item.step, images[rank].image_size)
            contents = {rank: slot.image for rank, slot in slots.items()}
            read_images(copy, contents, functools.partial(read_files, copy))
            for slot in slots.values():
                slot.complete(request["sequence"], {"metrics": dict(copy.manifest.metrics)}, hold=False)
        return copy.manifest


def failed(request: Mapping[str, Any], problem: str, *, lost: bool = False) -> wire.Message:
    """A request that could not be done; ``lost`` when it never can."""
    return {
        "event": "failed",
        "op": request["op"],
        "step": request.get("step", 0),
        "problem": problem,
        "lost": lost,
    }


def _created(item: RemoteItem) -> float:
    return item.manifest.created if item.manifest is not None else 0.0


def _is_on(item: RemoteItem, standing: Standing) -> bool:
    return item.manifest is not None and standing.counts(item.manifest)


def _open(stack: ExitStack, path: str) -> Slot:
    slot = Slot(Path(path), 0)
    stack.callback(slot.close)
    return slot


def main(arguments: list[str]) -> int:
    """Answer requests, one at a time, until the supervisor is gone."""
    connection = wire.own_end(arguments)
    die_with_parent(int(arguments[3]))
    job_signals.ignore()
    uploader: Uploader | None = None
    while (request := wire.receive(connection)) is not None:
        try:
            if uploader is None:
                uploader = Uploader(Path(arguments[2]), arguments[4], RemoteSettings.of(json.loads(arguments[5])))
            answer = uploader.answer(request)
        except Exception as error:  # noqa: BLE001  one failed request must not end the uploader
            answer = failed(request, repr(error))
        wire.send(connection, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
