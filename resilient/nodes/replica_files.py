"""Images of other nodes' ranks in this node's memory: two slot files for each rank, beside those of the own ranks.

Two, so that the last complete set of replicas stays until the next one is. All replicas that were made together carry
the name of their *set*. A set counts once it is *settled*: then it stands in a small file on every node, with the root
of each image, so that whoever puts a state together from several nodes can tell that the images belong together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths
from resilient.protocol.slot import Slot
from resilient.protocol.slot_header import META_LIMIT, SlotInfo

_TAG = "replica"
_PER_RANK = 2
_BY_RANK = ("roots", "begun")


@dataclass(frozen=True)
class Image:
    """A complete image on a node.

    :param set: of a replica; empty for a slot of a rank of the node's own.
    """

    rank: int
    step: int
    begun: int
    set: str = ""
    path: Path = field(default=Path(), compare=False)


@dataclass(frozen=True)
class Settled:
    """A set of replicas that counts.

    :param term: of the leader that had it made; with ``round`` it says which branch of the run it belongs to.
    :param roots: checksum of each rank's image; of all ranks of the run.
    :param begun: which images of its own ranks' slots belong to it, on the node where this is written.
    """

    set: str
    step: int
    term: int
    round: int
    roots: Mapping[int, str]
    begun: Mapping[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        by_rank = {name: {str(rank): value for rank, value in getattr(self, name).items()} for name in _BY_RANK}
        return {**asdict(self), **by_rank}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Settled:
        """From JSON.

        :raises ValueError: it is none.
        """
        try:
            roots = {int(rank): str(root) for rank, root in body["roots"].items()}
            begun = {int(rank): int(number) for rank, number in body["begun"].items()}
            numbers = {name: int(body[name]) for name in ("step", "term", "round")}
            return cls(set=str(body["set"]), **numbers, roots=roots, begun=begun)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no set of replicas: {error!r}") from error


class ReplicaFiles:
    """The replicas in a node's memory directory, and the images of its own ranks, looked at only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._record = directory / "replicas.json"

    def images(self) -> list[Image]:
        """All complete images, whosesoever they are."""
        return [*self._own(), *self._replicas()]

    def find(self, rank: int, step: int, *, replica_of: str = "", begun: int | None = None) -> Image | None:
        """A complete image of a rank: a replica of the set ``replica_of``, or what the rank itself has written."""
        there = self._replicas(rank) if replica_of else self._own(rank)
        matching = [image for image in there if image.step == step and image.set == replica_of]
        return next((image for image in matching if begun in (None, image.begun)), None)

    def target(self, rank: int, keep: Collection[str]) -> Slot:
        """The slot for the next replica of a rank: none of the sets ``keep`` is in it.

        :raises StorageFull: there is no room for even its header.
        """
        kept = {image.path for image in self._replicas(rank) if image.set in keep}
        paths = [self._path(rank, index) for index in range(_PER_RANK)]
        return Slot(next((path for path in paths if path not in kept), paths[-1]), 0)

    def drop(self, wanted: Callable[[Image], bool]) -> None:
        """Give back the memory of all replicas but the wanted ones, and what was being written of others."""
        keep = {image.path for image in self._replicas() if wanted(image)}
        for path in self.directory.glob("replica-rank-*.slot-*"):
            if path not in keep:
                path.unlink(missing_ok=True)

    def settled(self) -> Settled | None:
        """The last set that counts; None if there is none, or it is not known."""
        try:
            return Settled.of(json.loads(self._record.read_text()))
        except (OSError, ValueError):
            return None

    def settle(self, record: Settled | None) -> None:
        """From now on, this set counts and no other; None for none."""
        if record is None:
            self._record.unlink(missing_ok=True)
        else:
            fresh = RunPaths.fresh(self._record)
            fresh.write_text(json.dumps(record.to_json()))
            fresh.replace(self._record)  # it lies in memory: there is nothing to be made durable

    def _path(self, rank: int, index: int) -> Path:
        return self.directory / f"replica-rank-{rank:05d}.slot-{index}"

    def _own(self, rank: int | None = None) -> Iterator[Image]:
        name = "*" if rank is None else f"{rank:05d}"
        found: list[tuple[int, Image]] = []
        for path in self.directory.glob(f"rank-{name}.slot-*"):
            with suppress(OSError):
                info = SlotInfo.peek(path)
                if info is not None and info.complete:
                    found.append((info.sequence, Image(_rank(path), info.step, info.begun, path=path)))
        # of one step there may be two, of which the one that was written last counts
        yield from (image for _, image in sorted(found, key=lambda each: each[0], reverse=True))

    def _replicas(self, rank: int | None = None) -> Iterator[Image]:
        name = "*" if rank is None else f"{rank:05d}"
        for path in sorted(self.directory.glob(f"replica-rank-{name}.slot-*")):
            with suppress(OSError):
                found = SlotInfo.peek_with_meta(path)
                if found is not None and found[0].complete and found[1].get(_TAG):
                    yield Image(_rank(path), found[0].step, found[0].begun, str(found[1][_TAG]), path)


def tagged(meta: Mapping[str, Any], set_name: str) -> dict[str, Any]:
    """What is said of a replica: what was said of the image, and the set. The latter alone where both are too much."""
    whole = {**meta, _TAG: set_name}
    return whole if len(json.dumps(whole).encode()) <= META_LIMIT else {_TAG: set_name}


def untagged(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of the image itself."""
    return {key: value for key, value in meta.items() if key != _TAG}


def _rank(path: Path) -> int:
    return int(path.name.partition(".")[0].rpartition("-")[2])
