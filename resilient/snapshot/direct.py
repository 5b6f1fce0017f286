"""Reading and writing past the page cache, where the filesystem and the memory allow it.

A snapshot is written once and hardly ever read by the same machine again: going through the page cache costs a copy,
throws out what is needed, and makes ``fsync`` wait at the end. ``O_DIRECT`` wants memory, length and file offset
aligned to the device's blocks; images and slots are. Whatever is not aligned, or a filesystem that does not know the
flag, is served the usual way.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_PAGE = 4096


def open_direct(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file with ``O_DIRECT``, or without it where the filesystem does not have it."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Linux creates the file before it finds that it cannot open it directly.
    return os.open(path, (flags & ~os.O_EXCL) | os.O_CLOEXEC, mode)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of ``data`` at the file's position."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError as error:
            _without_direct(descriptor, error)


def read_exactly(descriptor: int, into: memoryview, offset: int = 0) -> None:
    """Fill ``into`` from this byte of the file on.

    :raises EOFError: the file ends before.
    """
    while into:
        try:
            count = os.preadv(descriptor, [into], offset)
        except OSError as error:
            _without_direct(descriptor, error)
            continue
        if not count:
            raise EOFError("the file ended early")
        into, offset = into[count:], offset + count


def read_cached(path: Path, offset: int, into: memoryview) -> int:
    """Fill ``into`` from a file with what the page cache has of it. Returns how many bytes, a multiple of 4096 where
    there are more to come; 0 where the filesystem cannot tell.
    """
    descriptor, done = os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0
    try:
        while done < len(into):
            count = os.preadv(descriptor, [into[done:]], offset + done, os.RWF_NOWAIT)
            if not count:
                break
            done += count
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
    return done if done == len(into) else done // _PAGE * _PAGE


def _without_direct(descriptor: int, error: OSError) -> None:
    """Go on without ``O_DIRECT`` if that may have been the reason of ``error``; otherwise raise it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
        raise error
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
