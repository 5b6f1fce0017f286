"""An image on its way from one memory to another: chunks, a checksum behind each, and the root over all of them.

The root is the xxh3-128 of the chunks' checksums one after the other. It tells two images apart, wherever they lie.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import BinaryIO

from resilient.errors import SnapshotCorrupt
from resilient.nodes.peer_link import receive_exactly, receive_into
from resilient.snapshot.hashing import digest

CHUNK = 4 << 20
"""Bytes; small enough that what was received is still in the processor's cache when it is hashed."""

_PIECE = 1 << 20  # bytes that are received before the next look at the pace, and at whether to go on
_DIGEST = 32  # hexadecimal digits


class Root:
    """Checksum over an image, fed chunk by chunk."""

    def __init__(self) -> None:
        self._digests: list[str] = []

    def add(self, chunk: memoryview) -> str:
        """Take in the next chunk; its own checksum."""
        self._digests.append(digest(chunk))
        return self._digests[-1]

    def __str__(self) -> str:
        return digest("".join(self._digests).encode())


def chunks_of(size: int) -> Iterator[tuple[int, int]]:
    """Beginning and end of each chunk of an image of ``size`` bytes."""
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


def root_of(image: memoryview) -> str:
    """The root of an image that lies here."""
    root = Root()
    for start, end in chunks_of(len(image)):
        root.add(image[start:end])
    return str(root)


def send_image(connection: socket.socket, file: BinaryIO, image: memoryview, offset: int) -> None:
    """Send an image from the file that it lies in; the kernel takes it from there, without a copy.

    :param image: the same bytes, mapped.
    :param offset: where in the file the image begins.
    :raises OSError: the other side is gone, or takes nothing for too long.
    """
    for start, end in chunks_of(len(image)):
        known = digest(image[start:end])
        connection.sendfile(file, offset + start, end - start)
        connection.sendall(known.encode())


def receive_image(connection: socket.socket, image: memoryview, spend: Callable[[int], None]) -> str:
    """Receive an image to where it is to lie; its root.

    :param spend: called with the number of bytes that come next, before they are received; may wait, or raise.
    :raises SnapshotCorrupt: a chunk is not what was sent.
    :raises OSError: the other side is gone, or sends nothing for too long.
    """
    root = Root()
    for start, end in chunks_of(len(image)):
        for first in range(start, end, _PIECE):
            last = min(first + _PIECE, end)
            spend(last - first)
            receive_into(connection, image[first:last])
        if receive_exactly(connection, _DIGEST) != root.add(image[start:end]).encode():
            raise SnapshotCorrupt(f"bytes {start} to {end} of an image were damaged on their way")
    return str(root)


def copy_image(source: memoryview, image: memoryview, spend: Callable[[int], None]) -> str:
    """Copy an image that lies on this node; its root."""
    root = Root()
    for start, end in chunks_of(len(image)):
        spend(end - start)
        image[start:end] = source[start:end]
        root.add(image[start:end])
    return str(root)
