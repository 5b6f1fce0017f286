"""Filling tensors from the images of a snapshot, wherever in them what belongs there lies.

Each chunk is read once and verified, and from there everything goes where it belongs, in one copy. Chunks that nothing
is wanted of are not read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from resilient.snapshot.copies import Copy, read_several
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.lying import Lying
from resilient.snapshot.manifest import ImageFile
from resilient.worker.leaves import TORCH_DTYPES


@dataclass(frozen=True)
class Box:
    """A part of a tensor, by offsets and lengths."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What a tensor is to be filled with.

    :param lying: a tensor of an image.
    :param box: which part of that.
    :param target: of the shape of the part.
    """

    lying: Lying
    box: Box
    target: torch.Tensor

    @classmethod
    def whole(cls, lying: Lying, target: torch.Tensor) -> Wanted:
        shape = lying.place.spec.shape
        return cls(lying, Box((0,) * len(shape), shape), target)


def fill(copy: Copy, wanted: Sequence[Wanted]) -> Iterator[int]:
    """Fill all targets; yields the number of each as soon as it is filled.

    :raises SnapshotCorrupt: a checksum does not match.
    """
    pieces = {number: _Piece(each) for number, each in enumerate(wanted) if each.target.numel()}
    yield from (number for number in range(len(wanted)) if number not in pieces)
    by_chunk: dict[tuple[int, int], list[int]] = defaultdict(list)
    files: dict[int, ImageFile] = {}
    for number, piece in pieces.items():
        file = wanted[number].lying.file
        files[file.rank] = file
        for chunk_number in range(piece.first // CHUNK, (piece.last - 1) // CHUNK + 1):
            by_chunk[file.rank, chunk_number].append(number)
    several = [(files[rank], chunk_number) for rank, chunk_number in sorted(by_chunk)]
    for file, chunk_number, chunk in read_several(copy, several):
        for number in by_chunk[file.rank, chunk_number]:
            if pieces[number].take(chunk, chunk_number * CHUNK):
                del pieces[number]
                yield number


def others_read() -> bool:
    """Whether there are other ranks on this machine, as torchrun's environment says, that read what this one reads."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) > 1


class _Piece:
    """The bytes of the image from the first that is wanted to the last; they may lie in several chunks.

    :ivar first: byte of the image.
    :ivar last: the byte behind.
    """

    def __init__(self, wanted: Wanted) -> None:
        place, box = wanted.lying.place, wanted.box
        whole = place.spec.shape
        self._target = wanted.target.detach()
        self._dtype = TORCH_DTYPES[place.spec.dtype]
        self._shape = box.shape
        self._strides = tuple(prod(whole[dimension + 1 :]) for dimension in range(len(whole)))
        begin = sum(offset * stride for offset, stride in zip(box.offsets, self._strides, strict=True))
        reach = sum((length - 1) * stride for length, stride in zip(box.shape, self._strides, strict=True)) + 1
        self.first = place.offset + begin * self._dtype.itemsize
        self.last = self.first + reach * self._dtype.itemsize
        self._in_one_row = reach == prod(box.shape)
        self._bytes: torch.Tensor | None = None

    def take(self, chunk: memoryview, start: int) -> bool:
        """Take what a chunk has of them, which begins at this byte of the image. Returns whether that was the last."""
        begin, end = max(self.first, start), min(self.last, start + len(chunk))
        if (begin, end) == (self.first, self.last):
            self._place(torch.frombuffer(chunk, dtype=torch.uint8, count=end - begin, offset=begin - start))
            return True
        if self._bytes is None:
            self._bytes = self._row()
        source = torch.frombuffer(chunk, dtype=torch.uint8, count=end - begin, offset=begin - start)
        self._bytes[begin - self.first : end - self.first].copy_(source)
        if end < self.last:
            return False
        if self._bytes.data_ptr() != self._target.data_ptr():
            self._place(self._bytes)
        self._bytes = None
        return True

    def _row(self) -> torch.Tensor:
        """Memory for all of them: the target's own, where it has them in the same order."""
        target = self._target
        if self._in_one_row and target.is_cpu and target.dtype == self._dtype and target.is_contiguous():
            return target.view(-1).view(torch.uint8)
        return torch.empty(self.last - self.first, dtype=torch.uint8, device="cpu")

    def _place(self, data: torch.Tensor) -> None:
        self._target.copy_(data.view(self._dtype).as_strided(self._shape, self._strides))
