"""Images on their way to disk: whatever comes, the same bytes and checksums, and errors where they belong."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from resilient.snapshot.hashing import CHUNK, checksum, chunks_of
from resilient.snapshot.relay import PIECE, relay


def content(size: int) -> bytearray:
    block = random.Random(size).randbytes(1 << 20)
    return bytearray((block * (size // len(block) + 1))[:size])


@pytest.mark.parametrize("size", [0, 5, PIECE, PIECE + 1, CHUNK + PIECE + 5])
def test_the_bytes_and_their_checksums_are_those_of_the_chunks(size: int) -> None:
    data, written = content(size), bytearray()
    expected = checksum(chunks_of(memoryview(data)))
    assert relay(chunks_of(memoryview(data)), written.extend) == expected
    assert written == data
    assert relay(chunks_of(memoryview(bytes(data))), lambda _: None) == expected  # memory that cannot be written


def test_a_chunk_may_change_as_soon_as_the_next_is_asked_for() -> None:
    """So does the memory in which an image without what others have is put together."""
    data, written = content(4 * PIECE), bytearray()

    def chunks() -> Iterator[memoryview]:
        memory = bytearray(2 * PIECE)
        for at in (0, 2 * PIECE):
            memory[:] = data[at : at + 2 * PIECE]
            yield memoryview(memory)
            memory[:] = bytes(2 * PIECE)

    relay(chunks(), written.extend)
    assert written == data


def test_what_cannot_be_written_ends_it() -> None:
    written, threads = [], threading.active_count()

    def fail_at_third(piece: memoryview) -> None:
        written.append(len(piece))
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        relay(chunks_of(memoryview(content(CHUNK + PIECE))), fail_at_third)
    assert written == [PIECE] * 3
    assert threading.active_count() == threads


def test_an_image_that_is_void_ends_it_behind_what_was_final() -> None:
    written, threads = bytearray(), threading.active_count()
    data = content(2 * PIECE)

    def chunks() -> Iterator[memoryview]:
        yield memoryview(data)
        raise LookupError("void")

    with pytest.raises(LookupError, match="void"):
        relay(chunks(), written.extend)
    assert written == data
    assert threading.active_count() == threads


def test_without_threads_it_is_done_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that is shutting down starts none, but waits for the one that commits the last snapshot."""
    starts: list[threading.Thread] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        starts.append(thread)
        if thread.name != "resilient-hash" or len(starts) > 1:
            raise RuntimeError("can't start new thread at interpreter shutdown")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    data, written = content(2 * PIECE), bytearray()
    expected = relay(chunks_of(memoryview(data)), written.extend)
    assert written == data
    assert expected.size == len(data)
    starts[0].join(30)
    assert not starts[0].is_alive()
