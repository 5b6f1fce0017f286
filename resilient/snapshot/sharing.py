"""Sharing: tensors that several ranks have alike are stored once.

Under DistributedDataParallel, all ranks have the same parameters and the same state of the optimizer. In memory every
rank has them, for it resumes from its own memory; on the disk the file of one rank is whole, and the files of the
others lack what is bit for bit the same there. Such a file is a safetensors file like the others, with fewer tensors.
It holds the header of its image as it was in memory, so that the image can be put together again exactly.

Whether an image is like another one is guessed from its largest tensors. If these differ, as they do where each rank
has a shard of the model, the image goes to disk as it is, and nothing else is compared. The first image goes to disk as
it grows, in any case; by then, the others have grown too.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.ends import Ends, ends_of
from resilient.snapshot.hashing import CHUNK, digest
from resilient.snapshot.image import HEADER, PAGE, STATE, Layout, Placed, TensorSpec, header_size

LEAST = 4 * PAGE
"""Bytes of a tensor that is worth a guess."""

_PROBES = 4

Ready = Callable[[int, int], None]
Digests = Mapping[str, tuple[TensorSpec, str, str]]


class Base(Protocol):
    """An image that is stored whole."""

    @property
    def rank(self) -> int: ...

    def digest_of(self, spec: TensorSpec) -> str | None:
        """That of its tensor of this very name, type and shape; None if it has none."""
        ...

    def sample_of(self, spec: TensorSpec) -> str | None:
        """That of the tensor's beginning, which is had for nothing."""
        ...


@dataclass(frozen=True)
class Noted:
    """What another node has written, by its checksums."""

    rank: int
    digests: Digests

    def digest_of(self, spec: TensorSpec) -> str | None:
        known, value, _ = self.digests.get(spec.name, (None, "", ""))
        return value if known == spec else None

    def sample_of(self, spec: TensorSpec) -> str | None:
        known, _, sample = self.digests.get(spec.name, (None, "", ""))
        return sample if known == spec else None


@dataclass
class Opened:
    """An image in memory. Each tensor is hashed once, when it is asked for, and has to be final by then."""

    rank: int
    image: memoryview
    layout: Layout
    _known: dict[str, str] = field(default_factory=dict)

    def digest_of(self, spec: TensorSpec) -> str | None:
        place = self.layout.tensors.get(spec.name)
        if place is None or place.spec != spec:
            return None
        if spec.name not in self._known:
            self._known[spec.name] = digest(self.image[place.offset : place.end])
        return self._known[spec.name]

    def sample_of(self, spec: TensorSpec) -> str | None:
        place = self.layout.tensors.get(spec.name)
        if place is None or place.spec != spec:
            return None
        return digest(self.image[place.offset : min(place.end, place.offset + LEAST)])

    def digests(self) -> dict[str, Any]:
        """Of all tensors, as JSON; the image has to be complete."""
        found: dict[str, Any] = {}
        for place in self.tensors():
            spec = place.spec
            found[spec.name] = [spec.dtype, list(spec.shape), self.digest_of(spec), self.sample_of(spec)]
        return found

    def tensors(self) -> Iterator[Placed]:
        """Those that have elements, in the order in which they lie, without the state."""
        for name, place in self.layout.tensors.items():
            if name != STATE and place.spec.size:
                yield place


def noted(rank: int, digests: Mapping[str, Any]) -> Noted:
    """From the JSON of :meth:`Opened.digests`.

    :raises ValueError: it is none; or TypeError.
    """
    return Noted(
        rank,
        {
            name: (TensorSpec(name, dtype, tuple(map(int, shape))), str(value), str(sample))
            for name, (dtype, shape, value, sample) in digests.items()
        },
    )


@dataclass(frozen=True)
class Reduced:
    """What of an image has to be written.

    :param base: the rank that has the rest.
    :param whole: bytes of the image.
    :param pieces: the file, in pieces.
    :param back: how many of the last ones say what is in it.
    """

    base: int
    whole: int
    pieces: Sequence[memoryview]
    back: int

    @property
    def size(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    @property
    def ends(self) -> Ends:
        return ends_of(self.pieces[0], self.pieces[-self.back :])

    def chunks(self) -> Iterator[memoryview]:
        """The file; each chunk is valid until the next is asked for."""
        buffer = memoryview(mmap.mmap(-1, min(CHUNK, self.size)))  # aligned to pages, unlike the pieces
        filled = 0
        for piece in self.pieces:
            rest = piece
            while rest:
                count = min(len(rest), len(buffer) - filled)
                buffer[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
                if filled == len(buffer):
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]


class Sharing:
    """The images of one snapshot, as they are written one after the other.

    :param ready: as that of a draft.
    :param bases: images of other nodes that are stored whole.
    """

    def __init__(self, images: Mapping[int, memoryview], ready: Ready, bases: Sequence[Base] = ()) -> None:
        self._images = images
        self._ready = ready
        self._bases = list(bases)

    def reduced(self, rank: int) -> Reduced | None:
        """What of the image of ``rank`` has to be written; None for all of it."""
        opened = self._open(rank)
        if opened is None:
            return None
        base = self._guess(opened)
        if base is None:
            self._bases.append(opened)
            return None
        self._ready(rank, len(opened.image))
        shared = {place.spec.name for place in opened.tensors() if _is_alike(opened, base, place.spec)}
        found = _without(opened, base.rank, shared)
        if found.size < len(opened.image):
            return found
        self._bases.append(opened)  # what describes the rest takes more room than the rest
        return None

    def _open(self, rank: int) -> Opened | None:
        """The image, of which the header has to be final; None if it is none."""
        image = self._images[rank]
        try:
            self._ready(rank, min(8, len(image)))
            length = header_size(image[:8], len(image))
            self._ready(rank, length)
            layout = Layout.of_header(bytes(image[:length]), len(image))
        except SnapshotCorrupt:
            return None
        return Opened(rank, image, layout) if STATE in layout.tensors and HEADER not in layout.tensors else None

    def _guess(self, opened: Opened) -> Base | None:
        """The image that this one seems to be like: of the largest tensors, it has the most alike."""
        large = [place for place in opened.tensors() if place.spec.size >= LEAST]
        probes = sorted(large, key=lambda place: -place.spec.size)[:_PROBES]
        if not probes or not self._bases:
            return None
        self._ready(opened.rank, max(place.end for place in probes))

        def alike(base: Base) -> int:
            return sum(_is_alike(opened, base, place.spec) for place in probes)

        best = max(self._bases, key=alike)  # the first of equal ones
        return best if alike(best) else None


def _is_alike(one: Base, other: Base, spec: TensorSpec) -> bool:
    return one.sample_of(spec) == other.sample_of(spec) and one.digest_of(spec) == other.digest_of(spec)


def _without(opened: Opened, base: int, shared: set[str]) -> Reduced:
    image, own = opened.image, [place for place in opened.tensors() if place.spec.name not in shared]
    state, header = opened.layout.state, memoryview(opened.layout.header)
    used = sum(place.spec.size for place in own) + len(header) + state.spec.size
    filling = memoryview(bytes(-used % PAGE))
    specs = [*(place.spec for place in own), TensorSpec(HEADER, "U8", (len(header) + len(filling),)), state.spec]
    layout = Layout.of_specs(specs, base=f"rank-{base:05d}")
    pieces = [image[place.offset : place.end] for place in own]
    back = [header, filling, image[state.offset : state.end]]
    return Reduced(base, len(image), [memoryview(layout.header), *pieces, *back], len(back))


def digests_of(images: Mapping[int, memoryview], whole: Collection[int]) -> dict[str, Any]:
    """What others may have alike, as JSON: by rank, of the images that are stored whole. All have to be complete."""
    found: dict[str, Any] = {}
    for rank in sorted(whole):
        try:
            found[str(rank)] = Opened(rank, images[rank], Layout.parse(images[rank])).digests()
        except SnapshotCorrupt:
            continue  # whatever it is, nobody can refer to a tensor in it
    return found
