"""Checksums of whole files and of their chunks."""

from __future__ import annotations

import xxhash

from resilient.snapshot.hashing import CHUNK, Checksum, checksum, chunks_of, digest


def test_the_checksum_is_the_published_xxh3_128() -> None:
    """Test vectors: the empty input is the one of https://github.com/Cyan4973/xxHash."""
    assert digest(b"") == "99aa06d3014798d86001c324468d497f"
    assert digest(b"abc") == xxhash.xxh3_128_hexdigest(b"abc")


def test_a_small_file_is_one_chunk_and_an_empty_one_none() -> None:
    assert checksum(chunks_of(memoryview(b"abc"))) == Checksum(3, digest(b"abc"), (digest(b"abc"),))
    assert checksum(chunks_of(memoryview(b""))) == Checksum(0, digest(b""), ())


def test_a_large_file_has_a_checksum_for_each_chunk_and_one_for_all() -> None:
    data = memoryview(bytes(CHUNK) + b"tail")
    found = checksum(chunks_of(data))
    assert found == Checksum(CHUNK + 4, digest(data), (digest(data[:CHUNK]), digest(b"tail")))


def test_hashing_passes_everything_on() -> None:
    seen: list[bytes] = []
    checksum(iter([memoryview(b"ab"), memoryview(b"c")]), lambda chunk: seen.append(bytes(chunk)))
    assert seen == [b"ab", b"c"]
