"""The manifest: what makes a directory of images a snapshot. Without a valid one a snapshot does not exist.

It is plain JSON and carries a checksum of itself, so a flipped bit in it is found like one in an image. Nothing in it
is trusted before it is validated: file names cannot leave the directory, and sizes are compared with the files before
anything is allocated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.ends import Ends, ends_from
from resilient.snapshot.hashing import CHUNK, Checksum, digest
from resilient.snapshot.shards import Part, Whole

NAME = "manifest.json"
FORMAT = "resilient-snapshot"
VERSION = 1
VERSION_SHARED = 2
"""Where files lack tensors that another image has alike: releases that do not know this must not read them."""
_MAX_BYTES = 64 << 20
MOST_DIVERGENCE = 96 << 10
"""Bytes, as JSON, of what a manifest says of divergence; more is left out, for it goes through messages as well."""
_FILE = re.compile(r"rank-\d{5,}\.safetensors")
_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ImageFile:
    """One image file of the snapshot.

    :param checksum: of the file.
    :param base: the rank whose image has the tensors that this file lacks, if it lacks any.
    :param whole: bytes of the image with them, as it was in memory.
    :param ends: checksums of what says what is in it; earlier releases did not note them.
    """

    name: str
    rank: int
    checksum: Checksum
    base: int | None = None
    whole: int | None = None
    ends: Ends | None = None

    @property
    def image_size(self) -> int:
        """Bytes of the image in memory."""
        return self.checksum.size if self.whole is None else self.whole

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """Everything known about a committed snapshot.

    :param identity: unique name of this snapshot in its lineage.
    :param parent: identity of the snapshot from which the round that took this one resumed.
    :param created: seconds since the epoch.
    :param metrics: last values reported before the snapshot was taken.
    :param durations: seconds that each phase of the run was known to take, so that a hang is known for one elsewhere.
    :param divergence: ``detector``, the state of the detectors after this step, and ``lineage``, that of the run when
        this was made; what is not known is missing. For a machine that has nothing but this snapshot.
    :param tensors: those that lie in parts in several images, by their path in the state; left out where they are very
        many.
    :param term: whose leader committed it, in a run of several nodes; 0 where there was but one.
    """

    run_id: str
    step: int
    round: int
    world_size: int
    identity: str
    parent: str | None
    created: float
    files: tuple[ImageFile, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    divergence: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Whole] = field(default_factory=dict)
    term: int = 0

    @property
    def size(self) -> int:
        """Bytes of all image files."""
        return sum(file.checksum.size for file in self.files)

    @property
    def image_size(self) -> int:
        """Bytes of all images in memory; more, where files lack what others have alike."""
        return sum(file.image_size for file in self.files)

    def to_bytes(self) -> bytes:
        version = VERSION if all(file.base is None for file in self.files) else VERSION_SHARED
        body = {"format": FORMAT, "version": version, "chunk_bytes": CHUNK, **asdict(replace(self, tensors={}))}
        body["files"] = [file.to_json() for file in self.files]
        body["tensors"] = {name: _described(whole) for name, whole in self.tensors.items()}
        if not self.tensors:
            del body["tensors"]
        for key in ("metrics", "durations"):
            body[key] = {name: _plain(value) for name, value in body[key].items()}
        return _dump({**body, "manifest_xxh3_128": digest(_dump(body))}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and validate.

        :raises SnapshotCorrupt: the manifest is damaged, malformed or of a newer version.
        """
        if len(data) > _MAX_BYTES:
            raise SnapshotCorrupt(f"a manifest of {len(data)} bytes is no manifest")
        try:
            body = json.loads(data)
            stated = body.pop("manifest_xxh3_128")
            intact = digest(_dump(body)) == stated
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise SnapshotCorrupt(f"the manifest is no valid JSON object: {error!r}") from error
        if not intact:
            raise SnapshotCorrupt("the manifest does not match its own checksum")
        written = [body.pop(key, None) for key in ("format", "version", "chunk_bytes")]
        if written not in ([FORMAT, version, CHUNK] for version in (VERSION, VERSION_SHARED)):
            raise SnapshotCorrupt("the manifest is of a format or version that this release does not read")
        try:
            files = _files(body.pop("files"))
            metrics = {name: float(value) for name, value in body.pop("metrics").items()}
            durations = {name: float(value) for name, value in body.pop("durations", {}).items()}
            body["divergence"] = dict(body.get("divergence", {}))
            body["term"] = int(body.get("term", 0))
            tensors = {name: _whole(entry) for name, entry in body.pop("tensors", {}).items()}
            known = {entry.name for entry in fields(cls)}  # a later release may have something to add
            body = {name: value for name, value in body.items() if name in known}
            return replace(cls(**body, files=files), metrics=metrics, durations=durations, tensors=tensors)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SnapshotCorrupt(f"the manifest is malformed: {error!r}") from error


def bounded(divergence: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of ``divergence`` a manifest takes: the parts that are plain JSON and, the smallest first, not too large
    together.
    """
    parts: dict[str, str] = {}
    for name, part in divergence.items():
        with suppress(ValueError, TypeError, RecursionError):
            parts[name] = json.dumps(part, allow_nan=False)
    taken, size = {}, 0
    for name in sorted(parts, key=lambda name: len(parts[name])):
        size += len(parts[name])
        if size <= MOST_DIVERGENCE:
            taken[name] = divergence[name]
    return taken


def _dump(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, indent=1, allow_nan=False).encode()


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _described(whole: Whole) -> dict[str, Any]:
    parts = [[part.rank, part.offsets, part.shape] for part in whole.parts]
    return {"dtype": whole.dtype, "shape": whole.shape, "parts": parts}


def _whole(entry: dict[str, Any]) -> Whole:
    parts = [
        Part(int(rank), tuple(map(int, offsets)), tuple(map(int, shape))) for rank, offsets, shape in entry["parts"]
    ]
    return Whole(entry["dtype"], tuple(map(int, entry["shape"])), tuple(parts))


def _files(entries: Sequence[Mapping[str, Any]]) -> tuple[ImageFile, ...]:
    files = tuple(image_file(entry) for entry in entries)
    require_bases(files)
    return files


def require_bases(files: Sequence[ImageFile]) -> None:
    """Ask before memory is reserved for images.

    :raises ValueError: a file lacks what no other one has.
    """
    whole = {file.rank: file.checksum.size for file in files if file.base is None}
    for file in files:
        if file.base is not None and file.image_size > file.checksum.size + whole.get(file.base, -file.image_size):
            raise ValueError(f"{file.name} lacks what no other file has")


def image_file(entry: Mapping[str, Any]) -> ImageFile:
    """An image file from its JSON.

    :raises ValueError: it cannot be one; or KeyError, TypeError.
    """
    checksum = entry["checksum"]
    chunks = tuple(checksum["chunks"])
    size = int(checksum["size"])
    if not _FILE.fullmatch(entry["name"]):
        raise ValueError(f"{entry['name']!r} is no name of an image")
    if not all(_HASH.fullmatch(text) for text in (checksum["xxh3_128"], *chunks)):
        raise ValueError("a checksum is malformed")
    if size < 0 or len(chunks) != -(-size // CHUNK):
        raise ValueError("the number of chunks does not fit the size")
    base, whole = entry.get("base"), entry.get("whole")
    if (base is None) != (whole is None) or (whole is not None and int(whole) < 0):
        raise ValueError("what a file lacks is said by halves")
    return ImageFile(
        entry["name"],
        int(entry["rank"]),
        Checksum(size, checksum["xxh3_128"], chunks),
        None if base is None else int(base),
        None if whole is None else int(whole),
        ends_from(entry["ends"], size) if "ends" in entry else None,
    )
