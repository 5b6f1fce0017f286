"""Pages of a mapped file: reserved before they are touched, and in this process's page tables before they are needed.

A sparse file in a full tmpfs kills its writer with SIGBUS at the first touch; reserving turns that into an error. And
the first touch is slow: the kernel clears each page of a new file, and a process that maps an old one takes a fault
for each. Both can be done in the background, in pieces, so that nobody waits for more than one of them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG})
"""What the kernel says when there is no room."""

PIECE = 64 << 20  # bytes; what is held up by one piece is held up for some tens of milliseconds
_TOUCHED_AT_ONCE = 4 << 20  # bytes, where the interpreter itself has to touch the pages and nothing else runs meanwhile
_PAGE = 4096
_MOST = 1 << 62  # no file is larger
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14: writable page table entries, the content as it was
_libc = ctypes.CDLL(None, use_errno=True)  # unlike mmap.madvise, it lets other threads run meanwhile

Interrupted = Callable[[], bool]


def never() -> bool:
    """Not interrupted."""
    return False


def free_bytes(descriptor: int) -> int | None:
    """Room on the filesystem of an open file; None where only the machine's memory sets a limit."""
    stats = os.fstatvfs(descriptor)
    return stats.f_bavail * stats.f_frsize if stats.f_blocks else None


def reserve(descriptor: int, size: int, interrupted: Interrupted = never) -> None:
    """Make a file ``size`` bytes long, all of what is new backed by memory or by the disk. It never gets shorter.

    :raises OSError: there is no room; then the file is as long as it was.
    """
    had = reached = os.fstat(descriptor).st_size
    free = free_bytes(descriptor)
    if size > _MOST or (free is not None and size - had > free):  # asked first: to try takes as long as to succeed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        while reached < size and not interrupted():
            piece = min(PIECE, size - reached)
            os.posix_fallocate(descriptor, reached, piece)
            reached += piece
    except OSError:
        os.ftruncate(descriptor, had)
        raise


def populate(memory: mmap.mmap, end: int, interrupted: Interrupted = never, *, by_kernel: bool = True) -> None:
    """Fill this process's page tables for the first ``end`` bytes of a mapping. What they hold stays as it is.

    :param by_kernel: False goes the way of older kernels, which is to read one byte of each page.
    """
    anchor = ctypes.c_char.from_buffer(memory)  # while it lives, the mapping cannot be closed
    start = 0
    while start < end and not interrupted():
        piece = min(PIECE if by_kernel else _TOUCHED_AT_ONCE, end - start)
        if not by_kernel:
            bytes(memoryview(memory)[start : start + piece : _PAGE])
        elif _libc.madvise(ctypes.c_void_p(ctypes.addressof(anchor) + start), ctypes.c_size_t(piece), _POPULATE_WRITE):
            if ctypes.get_errno() != errno.EINVAL:
                return  # it was to save time later, and that is all
            by_kernel = False
            continue
        start += piece
