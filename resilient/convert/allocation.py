"""Memory that goes back to the system as soon as a tensor does."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_BYTES = 1 << 20


def return_large_blocks() -> None:
    """Have this process's malloc map each large block by itself, and unmap it when it is freed.

    By default glibc keeps blocks of up to 32 MiB in its heap once it has seen such sizes freed. A conversion allocates
    a tensor after the other, between small things that stay, and the heap would grow with the checkpoint.
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _BYTES)
