"""Images on their way to disk, by way of a few large pages.

Slots lie in shared memory, in pages of 4 KiB that lie anywhere after a while. A disk that is written from them gets
small requests, and is half as fast; see :mod:`resilient.snapshot.memory`. So each piece is copied first, and while it
is in the processor's cache it is hashed. One thread copies, one hashes, and the caller writes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from queue import SimpleQueue
from threading import Thread

import xxhash

from resilient.snapshot.hashing import Checksum, checksum
from resilient.snapshot.memory import memory_for_disk

PIECE = 8 << 20
"""Bytes; what is under way fits into a processor's cache."""
_BUFFERS = 4
_HASHED_AT_ONCE = 1 << 20  # bytes that are still in the cache of the core when they are hashed a second time

Sink = Callable[[memoryview], object]


@dataclass(frozen=True)
class _Piece:
    data: memoryview
    buffer: memoryview
    ends_chunk: bool


_Stage = SimpleQueue[_Piece | BaseException | None]  # an error ends what comes through it, and so does None


def relay(chunks: Iterator[memoryview], sink: Sink) -> Checksum:
    """Hash chunks on their way into ``sink``, which gets copies of them in pieces, one after the other.

    :param chunks: each is copied before the next is asked for, which is done in another thread.
    """
    first = next(chunks, None)
    if first is None:
        return checksum(iter(()), sink)
    chunks = chain((first,), chunks)
    line = _Line(chunks)
    if len(first) <= PIECE or not line.start():
        return checksum(chunks, sink)
    return line.drain(sink)


class _Line:
    """Chunks are copied, then hashed, then drained."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._copied: _Stage = SimpleQueue()
        self._hashed: _Stage = SimpleQueue()
        self._sums: list[Checksum] = []
        self._threads = [
            Thread(target=self._hash, name="resilient-hash"),
            Thread(target=self._copy, name="resilient-copy"),
        ]

    def start(self) -> bool:
        """Whether there are threads: an interpreter that is shutting down starts none."""
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self._copied.put(None)
            return False
        for _ in range(_BUFFERS):
            self._free.put(memory_for_disk(PIECE))
        return True

    def drain(self, sink: Sink) -> Checksum:
        try:
            while isinstance(piece := self._hashed.get(), _Piece):
                sink(piece.data)
                self._free.put(piece.buffer)
        finally:
            self._free.put(None)
            for thread in self._threads:
                thread.join()
        if piece is not None:
            raise piece
        return self._sums[0]

    def _copy(self) -> None:
        end: BaseException | None = None
        try:
            for chunk in self._chunks:
                for at in range(0, len(chunk), PIECE):
                    buffer = self._free.get()
                    if buffer is None:  # the sink has failed
                        return
                    data = buffer[: min(PIECE, len(chunk) - at)]
                    copy(chunk[at : at + len(data)], data)
                    self._copied.put(_Piece(data, buffer, at + len(data) == len(chunk)))
        except BaseException as error:  # noqa: BLE001  it is raised where the pieces are drained
            end = error
        finally:
            self._copied.put(end)

    def _hash(self) -> None:
        whole, chunk, digests, size = xxhash.xxh3_128(), xxhash.xxh3_128(), list[str](), 0
        while isinstance(piece := self._copied.get(), _Piece):
            for at in range(0, len(piece.data), _HASHED_AT_ONCE):
                part = piece.data[at : at + _HASHED_AT_ONCE]
                chunk.update(part)
                whole.update(part)
            size += len(piece.data)
            if piece.ends_chunk:
                digests.append(str(chunk.hexdigest()))
                chunk.reset()
            self._hashed.put(piece)
        self._sums.append(Checksum(size, str(whole.hexdigest()), tuple(digests)))
        self._hashed.put(piece)


def copy(source: memoryview, target: memoryview) -> None:
    """Copy as many bytes; other threads run meanwhile, unless ``source`` cannot be written."""
    if source.readonly:
        target[:] = source
    else:
        to, of = (ctypes.byref(ctypes.c_char.from_buffer(memory)) for memory in (target, source))
        ctypes.memmove(to, of, len(target))
