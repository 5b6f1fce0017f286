"""Checksums: xxh3-128 of a whole file and of each 64 MiB chunk, so that damage is found and its place is known.

Not cryptographic: it finds accidents, not forgeries. https://xxhash.com
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

CHUNK = 64 << 20
"""Bytes of a chunk; the last one of a file may be shorter."""


@dataclass(frozen=True)
class Checksum:
    """Size in bytes and hexadecimal xxh3-128 of a file and its chunks."""

    size: int
    xxh3_128: str
    chunks: tuple[str, ...]


def digest(data: bytes | memoryview) -> str:
    return str(xxhash.xxh3_128_hexdigest(data))


def chunks_of(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def checksum(chunks: Iterator[memoryview], sink: Callable[[memoryview], object] = lambda _chunk: None) -> Checksum:
    """Hash the chunks on their way into ``sink``: a thread hashes each chunk while this one waits for the disk."""
    whole, digests, size = xxhash.xxh3_128(), [], 0

    def hash_chunk(chunk: memoryview) -> None:
        whole.update(chunk)
        digests.append(digest(chunk))

    with ThreadPoolExecutor(1, "resilient-hash") as hasher:
        for chunk in chunks:
            try:
                hashed = hasher.submit(hash_chunk, chunk)
            except RuntimeError:  # the interpreter is shutting down and starts no threads, but waits for this one
                hashed = None
            sink(chunk)
            size += len(chunk)
            hash_chunk(chunk) if hashed is None else hashed.result()
    return Checksum(size, str(whole.hexdigest()), tuple(digests))
