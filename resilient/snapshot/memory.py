"""Memory that disks read into and write from: in large pages, where the system has any.

A request that goes past the page cache names the memory by pieces that lie in one row physically, and takes only so
many of them. Ordinary pages lie anywhere after a while; then a request that could have 4 MiB has half of one, and a
disk that serves requests one after the other is half as fast.
https://docs.kernel.org/admin-guide/mm/transhuge.html
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

_LARGE = 2 << 20


def memory_for_disk(size: int) -> memoryview:
    """So many bytes of private memory, not touched yet and aligned to pages."""
    if size < _LARGE:
        return memoryview(mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]
    mapped = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(mapped)) % _LARGE
    return memoryview(mapped)[start : start + size]
