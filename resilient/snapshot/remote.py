"""The remote tier: which snapshots lie in a bucket, which of them stay, and what is said of those that are damaged.

``step-000001234.0a1b2c3d/`` holds what the local directory of that snapshot holds; the second part is the beginning of
its identity. One without a manifest is an upload on its way. A damaged one gets an object ``corrupt.json`` beside its
images: it is kept, and never chosen again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from resilient.errors import RemoteUnavailable, SnapshotCorrupt
from resilient.policy.lineage import Lineage
from resilient.protocol import names
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import manifest as manifests
from resilient.snapshot.bucket import Bucket
from resilient.snapshot.copies import RemoteCopy
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.retention import Candidate, Reason, Verdict, judge
from resilient.snapshot.standing import MARGIN, Standing

MARK = "corrupt.json"
_NAME = re.compile(r"(step-\d{9,18})\.([0-9a-f]{8})")
_LARGEST_MANIFEST = 64 << 20
_LARGEST_MARK = 1 << 16
_STREAMS = 8


def remote_name(step: int, identity: str) -> str:
    """``step-000001234.0a1b2c3d``"""
    return f"{names.snapshot_name(step)}.{identity[:8]}"


def remote_step(name: str) -> int | None:
    """The step in the name of a snapshot in a bucket, or None for anything else."""
    match = _NAME.fullmatch(name)
    return names.snapshot_step(match[1]) if match else None


@dataclass(frozen=True)
class RemoteItem:
    """A committed snapshot in the bucket.

    :param manifest: None if it cannot be read.
    :param problem: what is wrong with it, in words; empty for one that may be loaded.
    :param marked: it has failed verification before.
    """

    step: int
    name: str
    manifest: Manifest | None
    problem: str = ""
    marked: bool = False

    @property
    def loadable(self) -> bool:
        return self.manifest is not None and not self.problem


class RemoteTier:
    """The snapshots of one run in a bucket. Nothing is remembered between two calls but manifests, which never change
    under the name that holds their identity.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._manifests: dict[str, Manifest] = {}

    def items(self) -> tuple[RemoteItem, ...]:
        """All committed snapshots, oldest first, without reading their images. What disappears meanwhile is left out.

        :raises RemoteUnavailable: the bucket cannot be listed or read.
        """
        groups = self._groups()
        with ThreadPoolExecutor(_STREAMS, "resilient-list") as pool:
            found = list(pool.map(lambda pair: self._item(*pair), groups.items()))
        whole = [item for item in found if item is not None]
        return tuple(sorted(whole, key=lambda item: (item.step, item.manifest.created if item.manifest else 0.0)))

    def copy(self, item: RemoteItem) -> RemoteCopy:
        """What ``item`` holds, to be read.

        :raises SnapshotCorrupt: it is known that it cannot be.
        """
        if item.manifest is None or item.problem:
            raise SnapshotCorrupt(f"{item.name}: {item.problem}")
        return RemoteCopy(self.bucket, item.name, item.manifest)

    def mark(self, item: RemoteItem, reason: str) -> bool:
        """Say beside a snapshot that it is corrupt; False where we may not write."""
        body = json.dumps({"reason": reason, "time": round(time.time(), 3)}).encode()
        try:
            self.bucket.put(f"{item.name}/{MARK}", body)
        except RemoteUnavailable:
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete a snapshot, or what an upload has left of one. It stops being a snapshot in one step, before the rest
        goes.
        """
        keys = list(self.bucket.sizes(f"{name}/"))
        marker = f"{name}/{manifests.NAME}"
        if marker in keys:
            self.bucket.delete([marker])
        if rest := [key for key in keys if key != marker]:
            self.bucket.delete(rest)

    def review(
        self,
        items: Sequence[RemoteItem],
        settings: RetentionSettings,
        pinned: Collection[int] = (),
        *,
        standing: Standing | None = None,
        margin: int | None = MARGIN,
    ) -> Verdict:
        """What retention says of those that may be loaded and are on the lineage.

        :param standing: what the run's lineage says; by default what the newest snapshot here says of it.
        :param margin: the setting ``divergence.margin``; None where nobody watches the run.
        """
        standing = standing if standing is not None else _standing(items)
        candidates = [
            Candidate(item.step, item.manifest.created, item.manifest.metrics, item.step in pinned)
            for item in current(_on(items, standing)).values()
            if item.manifest is not None
        ]
        if standing.problem:
            return Verdict((), {candidate.step: (Reason.UNKNOWN,) for candidate in candidates})
        latest = max(
            candidates, key=lambda candidate: candidate.created, default=None
        )  # after a rollback not the highest
        good = standing.to_keep([candidate.step for candidate in candidates], margin)
        return judge(candidates, settings, in_use=() if latest is None else (latest.step,), good=good)

    def delete_off(self, standing: Standing) -> list[str]:
        """Delete snapshots that are not on the lineage, or were committed by a leader after its time; returns their
        names.
        """
        if not (standing.lineage.rollbacks or standing.terms.began):
            return []
        off = [item.name for item in self.items() if item.manifest is not None and not standing.counts(item.manifest)]
        for name in off:
            self.delete(name)
        return off

    def prune(
        self,
        settings: RetentionSettings,
        is_pinned: Callable[[int], bool] = lambda _step: False,
        *,
        standing: Standing | None = None,
        margin: int | None = MARGIN,
    ) -> list[int]:
        """Delete what retention does not want, and those that a newer one of the same step has replaced; returns the
        steps that are gone. What is damaged or off the lineage is left alone. The last two parameters are those of
        :meth:`review`.
        """
        every = self.items()
        standing = standing if standing is not None else _standing(every)
        items = _on(every, standing)
        pinned = {item.step for item in items if is_pinned(item.step)}
        found = self.review(items, settings, pinned, standing=standing, margin=margin)
        newest, removable = current(items), set(found.removable)
        for item in items:
            if item.loadable and (item.step in removable or newest[item.step] is not item):
                self.delete(item.name)
        return sorted(removable)

    def remove_leftovers(self, keep: Collection[str]) -> list[str]:
        """Remove uploads that were cut short, but for those of the snapshots named in ``keep``. Call only while no
        upload is under way.
        """
        groups = self._groups(committed=False)
        doomed = [name for name in groups if name not in keep]
        for name in doomed:
            self.delete(name)
        for key in self.bucket.unfinished():
            name = key.partition("/")[0]
            if remote_step(name) is not None and name not in keep:
                self.bucket.abandon(key)
                doomed.append(name)
        return sorted(set(doomed))

    def _groups(self, *, committed: bool = True) -> Mapping[str, Mapping[str, int]]:
        """By name, the objects of each snapshot with their sizes: of all that have a manifest, or of all others."""
        groups: dict[str, dict[str, int]] = {}
        for key, size in self.bucket.sizes().items():
            name, _, file = key.partition("/")
            if remote_step(name) is not None:
                groups.setdefault(name, {})[file] = size
        return {name: files for name, files in groups.items() if (manifests.NAME in files) == committed}

    def _item(self, name: str, sizes: Mapping[str, int]) -> RemoteItem | None:
        step = remote_step(name)
        assert step is not None  # noqa: S101  only such names are grouped
        try:
            manifest = self._manifest(name, sizes)
        except SnapshotCorrupt as error:
            return RemoteItem(step, name, None, error.problem, marked=MARK in sizes)
        except FileNotFoundError:
            return None
        problem = self._said(name, sizes[MARK]) if MARK in sizes else _size_problem(manifest, sizes)
        return RemoteItem(step, name, manifest, problem, marked=MARK in sizes)

    def _manifest(self, name: str, sizes: Mapping[str, int]) -> Manifest:
        if name in self._manifests:
            return self._manifests[name]
        manifest = Manifest.from_bytes(self._read(f"{name}/{manifests.NAME}", sizes[manifests.NAME], _LARGEST_MANIFEST))
        if remote_name(manifest.step, manifest.identity) != name:
            raise SnapshotCorrupt(f"the manifest is that of {remote_name(manifest.step, manifest.identity)!r:.80}")
        self._manifests[name] = manifest
        return manifest

    def _said(self, name: str, size: int) -> str:
        """The reason that stands in a mark."""
        try:
            body: Any = json.loads(self._read(f"{name}/{MARK}", size, _LARGEST_MARK))
            return f"failed verification: {body['reason']!s:.300}"
        except (SnapshotCorrupt, FileNotFoundError, ValueError, TypeError, KeyError):
            return "failed verification"

    def _read(self, key: str, size: int, most: int) -> bytes:
        if size > most:
            raise SnapshotCorrupt(f"{key} has {size} bytes, which is absurd")
        data = bytearray(size)
        try:
            self.bucket.read(key, 0, memoryview(data))
        except EOFError as error:
            raise SnapshotCorrupt(f"{key} ended early") from error
        return bytes(data)


def current(items: Sequence[RemoteItem]) -> Mapping[int, RemoteItem]:
    """Of each step, the snapshot that would be loaded: the newest that is not known to be damaged."""
    return {item.step: item for item in items if item.loadable}  # items of one step are in the order of their making


def _on(items: Sequence[RemoteItem], standing: Standing) -> list[RemoteItem]:
    """Those on the lineage, as far as their manifests can be read."""
    return [item for item in items if item.manifest is None or standing.counts(item.manifest)]


def _standing(items: Sequence[RemoteItem]) -> Standing:
    """What the snapshot that was made last says of the lineage."""
    newest = max((item.manifest for item in items if item.manifest), key=lambda found: found.created, default=None)
    try:
        return Standing(Lineage.from_json(newest.divergence["lineage"]) if newest is not None else Lineage())
    except (ValueError, KeyError):
        return Standing()


def _size_problem(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    for file in manifest.files:
        if file.name not in sizes:
            return f"{file.name} is missing"
        if sizes[file.name] != file.checksum.size:
            return f"{file.name} has {sizes[file.name]} bytes, the manifest says {file.checksum.size}"
    return ""
