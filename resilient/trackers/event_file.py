"""TensorBoard's event files, written without its packages.

A file is a sequence of TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of that), each with one ``Event``
in protobuf's encoding; see ``tensorboard/compat/proto/event.proto`` and ``tensorflow/core/lib/io/record_writer.h``.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reversed
_MASK = 0xA282EAD8
_START = 1  # of SessionLog.SessionStatus
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _text(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _event(when: float, step: int, what: bytes) -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", when) + _key(2, _VARINT) + _varint(step) + what


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", _masked_crc(length)) + event + struct.pack("<I", _masked_crc(event))


class EventFile:
    """One file in ``directory``, which readers take together with the older ones there."""

    def __init__(self, directory: Path, *, purge_from: int | None = None, number: int = 0) -> None:
        """Begin it.

        :param purge_from: what older files have of this step and later ones is to be forgotten; None for nothing.
        :param number: later than those of older files: readers go by the order of the names.
        """
        directory.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.resilient.{number:06d}.{os.getpid()}"
        self._stream = (directory / name).open("ab")
        self._write(_event(now, 0, _text(3, b"brain.Event:2")))
        if purge_from is not None:
            self.purge(purge_from)

    def scalars(self, step: int, values: Mapping[str, float], when: float) -> None:
        """One value for each tag, as 32 bit floats."""
        summary = b"".join(
            _text(1, _text(1, tag.encode()) + _key(2, _FIXED32) + struct.pack("<f", _fits(value)))
            for tag, value in values.items()
        )
        self._write(_event(when, step, _text(5, summary)))

    def purge(self, step: int) -> None:
        """What there is of ``step`` and later ones is to be forgotten."""
        self._write(_event(time.time(), step, _text(7, _key(1, _VARINT) + _varint(_START))))

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def _write(self, event: bytes) -> None:
        self._stream.write(_record(event))


def _fits(value: float) -> float:
    """What is too large for 32 bits is infinite."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value
