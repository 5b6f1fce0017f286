"""Zip archives as ``torch.save`` writes them: records that are not compressed, one after the other, each aligned.

Python's ``zipfile`` goes back to fill in sizes, and does not align. Here a record is written when all of it is known,
so the archive is one stream. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from resilient.snapshot.storage import Writer

ALIGNMENT = 64
"""Bytes at which the data of a record begins, as ``torch.load(mmap=True)`` likes it."""

_LARGE = 0xFFFFFFFF
_MANY = 0xFFFF
_VERSION = 45  # of zip: the first that knows of large files
_UTF8 = 1 << 11
_MIDNIGHT_OF_1980 = (0, 0x21)
_ZIP64, _PADDING = 0x0001, 0x4246


@dataclass(frozen=True)
class _Record:
    name: bytes
    size: int
    crc: int
    offset: int


class ZipWriter:
    """:param append: writes at the end of the file."""

    def __init__(self, append: Writer) -> None:
        self._append = append
        self._records: list[_Record] = []
        self._position = 0

    def add(self, name: str, data: memoryview) -> None:
        record = _Record(name.encode(), len(data), zlib.crc32(data), self._position)
        self._put(_local_header(record))
        self._put(data)
        self._records.append(record)

    def close(self) -> None:
        """Write the directory, without which there is no archive."""
        begin = self._position
        self._put(b"".join(map(_directory_entry, self._records)))
        self._put(_end(len(self._records), begin, self._position - begin))

    def _put(self, data: bytes | memoryview) -> None:
        if len(data):
            self._append(memoryview(data))
            self._position += len(data)


def _local_header(record: _Record) -> bytes:
    sizes = struct.pack("<HHQQ", _ZIP64, 16, record.size, record.size) if record.size >= _LARGE else b""
    used = record.offset + 30 + len(record.name) + len(sizes) + 4
    extra = sizes + struct.pack("<HH", _PADDING, -used % ALIGNMENT) + bytes(-used % ALIGNMENT)
    stated = min(record.size, _LARGE)
    numbers = (_VERSION, _UTF8, 0, *_MIDNIGHT_OF_1980, record.crc, stated, stated, len(record.name), len(extra))
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", *numbers) + record.name + extra


def _directory_entry(record: _Record) -> bytes:
    large = [record.size] * 2 if record.size >= _LARGE else []
    large += [record.offset] if record.offset >= _LARGE else []
    extra = struct.pack(f"<HH{len(large)}Q", _ZIP64, 8 * len(large), *large) if large else b""
    stated, offset = min(record.size, _LARGE), min(record.offset, _LARGE)
    numbers = (_VERSION, _VERSION, _UTF8, 0, *_MIDNIGHT_OF_1980, record.crc, stated, stated, len(record.name))
    rest = (len(extra), 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *numbers, *rest) + record.name + extra


def _end(count: int, begin: int, size: int) -> bytes:
    found = b""
    if count >= _MANY or begin >= _LARGE or size >= _LARGE:
        large = (44, _VERSION, _VERSION, 0, 0, count, count, size, begin)
        found += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *large)
        found += struct.pack("<4sIQI", b"PK\x06\x07", 0, begin + size, 1)
    stated = (min(count, _MANY), min(count, _MANY), min(size, _LARGE), min(begin, _LARGE))
    return found + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *stated, 0)
