"""Where in a snapshot's files the tensors of an image lie, of which its own file may lack some."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.copies import Copy, read_chunks, read_end, read_files, read_range
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.image import HEADER, STATE, Layout, Placed, header_size, parse_state, state_place
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.memory import memory_for_disk

ReadFiles = Callable[[Sequence[tuple[ImageFile, memoryview]]], None]
_MOST_HEADER = 1 << 28


@dataclass(frozen=True)
class Lying:
    """Where something lies: in which file, and where in that."""

    file: ImageFile
    place: Placed


@dataclass(frozen=True)
class OpenedImage:
    """An image, looked into.

    :ivar layout: as it was in memory.
    :ivar tensors: where each of its tensors lies.
    :ivar state: the JSON state.
    """

    layout: Layout
    tensors: Mapping[str, Lying]
    state: Any


class Images:
    """The images of one copy of a snapshot, looked into; every byte that is read is verified."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._files = {file.rank: file for file in copy.manifest.files}
        self._layouts: dict[str, Layout] = {}

    def open(self, file: ImageFile) -> OpenedImage:
        """Look into one.

        :raises SnapshotCorrupt: it is damaged, or was not written by resilient.
        """
        here = self.layout_of(file)
        place, at, back = state_place(here), *self._back(file, here)
        state = parse_state(back[place.offset - at : place.end - at])
        own = {name: Lying(file, found) for name, found in here.tensors.items()}
        if file.base is None:
            return OpenedImage(here, own, state)
        base = self._files[file.base]
        there = self.layout_of(base)
        kept = here.tensors.get(HEADER)
        stored = b"" if kept is None else back[kept.offset - at : kept.end - at]
        layout = in_memory(file, stored)
        tensors = {name: _lying(name, layout, own, base, there) for name in layout.tensors}
        return OpenedImage(layout, tensors, state)

    def layout_of(self, file: ImageFile) -> Layout:
        """Where in a file lies what; tensors that it lacks are not in it."""
        if file.name not in self._layouts:
            self._layouts[file.name] = Layout.of_header(self._header(file), file.checksum.size)
        return self._layouts[file.name]

    def _header(self, file: ImageFile) -> bytes:
        size = file.checksum.size
        if file.ends is not None:
            header = read_end(self._copy, file, 0, file.ends.front)
            if header_size(header[:8], size) != len(header):
                raise SnapshotCorrupt(f"{file.name}: the header is not where the manifest says")
            return header
        first = read_range(self._copy, file, 0, min(CHUNK, size))  # which is read whole for any byte of it
        length = header_size(first[:8], size)
        return first[:length] if length <= len(first) else read_range(self._copy, file, 0, length)

    def _back(self, file: ImageFile, layout: Layout) -> tuple[int, bytes]:
        """The end of the file, and where in it that begins."""
        size = file.checksum.size
        first = min(layout.tensors[name].offset for name in (STATE, HEADER) if name in layout.tensors)
        if file.ends is None:
            return first, read_range(self._copy, file, first, size)
        if first != size - file.ends.back.size:
            raise SnapshotCorrupt(f"{file.name}: the state is not where the manifest says")
        return first, read_end(self._copy, file, first, file.ends.back)


def in_memory(file: ImageFile, stored: bytes | memoryview) -> Layout:
    """The layout that an image had in memory of which the file lacks something.

    :param stored: the tensor ``HEADER`` of the file.
    :raises SnapshotCorrupt: that is no such header.
    """
    length = header_size(stored[:8], _MOST_HEADER)
    if length > len(stored):
        raise SnapshotCorrupt(f"{file.name}: the header of the image claims {length} bytes of {len(stored)}")
    return Layout.of_header(bytes(stored[:length]), file.image_size)


def _lying(name: str, layout: Layout, own: Mapping[str, Lying], base: ImageFile, there: Layout) -> Lying:
    wanted = layout.tensors[name]
    if (found := own.get(name)) is not None:
        if found.place.spec != wanted.spec:
            raise SnapshotCorrupt(f"{found.file.name}: {name} is not what the header of the image says")
        return found
    if not wanted.spec.size:
        return Lying(base, wanted)
    place = there.tensors.get(name)
    if place is None or place.spec != wanted.spec:
        raise SnapshotCorrupt(f"{base.name} has no {name} as the header of another image says")
    return Lying(base, place)


def read_images(copy: Copy, into: Mapping[int, memoryview], read: ReadFiles) -> None:
    """Put images together as they were in memory.

    Of a file that others refer to, each byte is read once, however many of them are wanted.

    :param into: by rank, memory of exactly the size of the image.
    :param read: reads whole files and verifies them.
    :raises SnapshotCorrupt: a byte is not as it was written.
    """
    files = {file.rank: file for file in copy.manifest.files}
    borrowers: dict[int, list[int]] = defaultdict(list)
    for rank in sorted(into):
        if (base := files[rank].base) is not None:
            borrowers[base].append(rank)
    read([(files[rank], into[rank]) for rank in sorted(into) if files[rank].base is None])
    for base, ranks in borrowers.items():
        wanted = [piece for rank in ranks for piece in _read_own(files[rank], into[rank], read)]
        if base in into:
            layout = Layout.parse(into[base])
            for name, target, size in wanted:
                place = _place_in(layout, files[base], name, size)
                target[:] = into[base][place.offset : place.end]
        else:
            _read_borrowed(copy, files[base], wanted)


def whole_image(copy: Copy, rank: int) -> memoryview:
    """The image of one rank as it was in memory, verified.

    :raises ValueError: there is no such rank.
    :raises SnapshotCorrupt: a byte is not as it was written.
    """
    [size] = [file.image_size for file in copy.manifest.files if file.rank == rank]
    image = memory_for_disk(size)
    read_images(copy, {rank: image}, functools.partial(read_files, copy))
    return image


_Piece = tuple[str, memoryview, int]


def _read_own(file: ImageFile, image: memoryview, read: ReadFiles) -> list[_Piece]:
    """Read what the file of an image has; returns of tensors that it has not the names, where they go, and the size."""
    stored = memory_for_disk(file.checksum.size)
    read([(file, stored)])
    here = Layout.parse(stored)
    kept = here.tensors.get(HEADER)
    layout = in_memory(file, b"" if kept is None else stored[kept.offset : kept.end])
    image[: len(layout.header)] = layout.header
    missing = []
    for name, place in layout.tensors.items():
        target, found = image[place.offset : place.end], here.tensors.get(name)
        if found is not None:
            if found.spec != place.spec:
                raise SnapshotCorrupt(f"{file.name}: {name} is not what the header of the image says")
            target[:] = stored[found.offset : found.end]
        elif name == STATE:
            raise SnapshotCorrupt(f"{file.name} has no {STATE}")
        elif place.spec.size:
            missing.append((name, target, place.spec.size))
    return missing


def _read_borrowed(copy: Copy, base: ImageFile, wanted: list[_Piece]) -> None:
    layout = Images(copy).layout_of(base)
    places = [(_place_in(layout, base, name, size), target) for name, target, size in wanted]
    numbers = {number for place, _ in places for number in range(place.offset // CHUNK, (place.end - 1) // CHUNK + 1)}
    for number, chunk in read_chunks(copy, base, sorted(numbers)):
        start = number * CHUNK
        for place, target in places:
            first, last = max(place.offset, start), min(place.end, start + len(chunk))
            if first < last:
                target[first - place.offset : last - place.offset] = chunk[first - start : last - start]


def _place_in(layout: Layout, base: ImageFile, name: str, size: int) -> Placed:
    place = layout.tensors.get(name)
    if place is None or place.spec.size != size:
        raise SnapshotCorrupt(f"{base.name} has no {name} of {size} bytes, which another image refers to")
    return place
