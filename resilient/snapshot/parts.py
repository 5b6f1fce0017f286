"""A snapshot in parts: several nodes write their ranks' images side by side, and one of them makes them a snapshot.

The directory in which they write has a name that is agreed on before. Each node leaves a note beside its images that
says what they are; a message then has to carry next to nothing, however large the images are. The notes are gone
before the snapshot is there, which is the same as if one node had written all of it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, SnapshotError
from resilient.protocol import names
from resilient.protocol.small_file import read_bounded
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, describe, publish, settle, write_images, write_manifest
from resilient.snapshot.hashing import digest
from resilient.snapshot.image import HEADER, Layout, header_size, parse_state, state_place
from resilient.snapshot.lying import in_memory
from resilient.snapshot.manifest import ImageFile, Manifest, image_file
from resilient.snapshot.shards import Whole, distributed_among
from resilient.snapshot.sharing import Base, digests_of, noted
from resilient.snapshot.storage import Storage

_LARGEST_NOTE = 64 << 20
_REMEDY = "nothing: the images are still in memory, and the next snapshot will be tried"


@dataclass(frozen=True)
class Part:
    """What one node has written.

    :param note: name of the file that says more, in the same directory.
    :param xxh3_128: of that file.
    :param size: bytes of the files.
    :param image_size: bytes of the images in memory.
    """

    note: str
    xxh3_128: str
    ranks: tuple[int, ...]
    size: int
    image_size: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Part:
        """:raises KeyError: it is none; or TypeError, ValueError."""
        ranks = tuple(int(rank) for rank in body["ranks"])
        note = str(body["note"])
        if note != _note_name(ranks):
            raise ValueError(f"{note!r} is no name of a note")
        return cls(note, str(body["xxh3_128"]), ranks, int(body["size"]), int(body["image_size"]))


def write_part(storage: Storage, staging: Path, draft: Draft, *, digests: bool = False) -> Part:
    """Write the images of ``draft`` into ``staging``, durable when this returns.

    What an earlier attempt has left of them is replaced.

    :param digests: whether the note is to say what others may have alike; see :func:`bases_in`.

    :raises StorageFull: there is no room; what was written is removed again.
    """
    with suppress(FileExistsError):
        storage.make_directory(staging)
    try:
        _remove_images(storage, staging, draft)
        files = write_images(storage, staging, draft)
        ranks = tuple(sorted(draft.images))
        metrics = dict(draft.settled())
        body: dict[str, Any] = {"files": [file.to_json() for file in files], "metrics": metrics}
        if digests:
            body["digests"] = digests_of(draft.images, [file.rank for file in files if file.base is None])
        encoded = json.dumps(body).encode()
        storage.write(staging / _note_name(ranks), lambda append: append(memoryview(encoded)))
        storage.sync_directory(staging)
    except Exception:
        with suppress(OSError):
            _remove_images(storage, staging, draft)
        raise
    sizes = (sum(file.checksum.size for file in files), sum(file.image_size for file in files))
    return Part(_note_name(ranks), digest(encoded), ranks, *sizes)


def bases_in(staging: Path, part: Part) -> tuple[Base, ...]:
    """The images that another node has written whole, as its note describes them.

    :raises SnapshotError: it cannot be read.
    """
    body = _read_body(staging, part)
    try:
        return tuple(noted(int(rank), digests) for rank, digests in body.get("digests", {}).items())
    except (ValueError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{staging.name}/{part.note} cannot be read: {error}", _REMEDY) from error


@dataclass(frozen=True)
class Gathered:
    """What all nodes have written together.

    :param tensors: those that lie in parts in several images.
    """

    files: tuple[ImageFile, ...]
    metrics: Mapping[str, float]
    tensors: Mapping[str, Whole]


def gather(staging: Path, parts: Sequence[Part], world_size: int) -> Gathered:
    """Look at what all nodes have written into ``staging``.

    :raises SnapshotError: the images are not all there.
    """
    noted = [_read_note(staging, part) for part in parts]
    files = sorted((file for found, _ in noted for file in found), key=lambda file: file.rank)
    if [file.rank for file in files] != list(range(world_size)):
        raise SnapshotError(f"{staging.name} has images of {len(files)} ranks, the run has {world_size}", _REMEDY)
    whole = {file.rank for file in files if file.base is None}
    if any(file.base is not None and file.base not in whole for file in files):
        raise SnapshotError(f"{staging.name}: a file lacks what no other one has", _REMEDY)
    for file in files:
        try:
            catalog.require_size(staging, file)
        except SnapshotCorrupt as error:
            raise SnapshotError(error.problem, _REMEDY) from error
    metrics = next(metrics for found, metrics in noted if any(file.rank == 0 for file in found))
    return Gathered(tuple(files), metrics, distributed_among((file.rank, _reader(staging, file)) for file in files))


def commit_parts(
    storage: Storage,
    directory: Path,
    staging: Path,
    draft: Draft,
    gathered: Gathered,
    *,
    permit: Callable[[], None],
) -> Manifest:
    """Make what was gathered in ``staging`` a snapshot in ``directory``, durable when this returns.

    :param draft: says everything but the images and the metrics.
    :param permit: raises where we may commit nothing any more; nothing is committed then.
    """
    prefix = staging.name.rpartition("-")[2]
    manifest = describe(
        draft, prefix + uuid.uuid4().hex[len(prefix) :], gathered.files, gathered.metrics, gathered.tensors
    )
    permit()
    images = {file.name for file in gathered.files}
    for path in sorted(staging.iterdir()):
        if path.name not in images:  # notes, and the manifest of an attempt that failed
            storage.remove_file(path)
    write_manifest(storage, staging, manifest)
    publish(storage, directory, staging, draft.step, permit)
    return manifest


def committed_from(storage: Storage, directory: Path, staging: Path, step: int) -> Manifest | None:
    """The snapshot that what was in ``staging`` has become already, if it has: somebody was asked for it who did not
    live to answer.
    """
    final = directory / names.snapshot_name(step)
    try:
        manifest = catalog.read_manifest(final)
    except SnapshotCorrupt:
        return None
    if not manifest.identity.startswith(staging.name.rpartition("-")[2]):
        return None
    settle(storage, directory, final)
    return manifest


def _note_name(ranks: Sequence[int]) -> str:
    return f"part-{min(ranks):05d}.json"


def _read_note(staging: Path, part: Part) -> tuple[list[ImageFile], Mapping[str, float]]:
    body = _read_body(staging, part)
    try:
        files = [image_file(entry) for entry in body["files"]]
        if tuple(file.rank for file in files) != part.ranks:
            raise ValueError("it speaks of other ranks")
        return files, body["metrics"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{staging.name}/{part.note} cannot be read: {error}", _REMEDY) from error


def _read_body(staging: Path, part: Part) -> Mapping[str, Any]:
    try:
        encoded = read_bounded(staging / part.note, _LARGEST_NOTE) or b""
        if digest(encoded) != part.xxh3_128:
            raise ValueError("it is not what its node has written")
        body: Mapping[str, Any] = json.loads(encoded)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{staging.name}/{part.note} cannot be read: {error}", _REMEDY) from error
    return body


def _remove_images(storage: Storage, staging: Path, draft: Draft) -> None:
    for rank in sorted(draft.images):
        storage.remove_file(staging / names.image_name(rank))
    storage.remove_file(staging / _note_name(tuple(draft.images)))


def _reader(staging: Path, file: ImageFile) -> Callable[[], tuple[Layout, Any]]:
    """Reads layout and state of an image on the disk."""

    def read() -> tuple[Layout, Any]:
        size = file.checksum.size
        with (staging / file.name).open("rb") as stream:

            def at(offset: int, count: int) -> bytes:
                stream.seek(offset)
                return stream.read(count)

            layout = Layout.of_header(at(0, header_size(at(0, 8), size)), size)
            place, kept = state_place(layout), layout.tensors.get(HEADER)
            whole = layout if kept is None else in_memory(file, at(kept.offset, kept.spec.size))
            return whole, parse_state(at(place.offset, place.spec.size))

    return read
