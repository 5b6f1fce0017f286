"""The two ends of an image's file: what says what is in it, with checksums of their own.

In front lies the header of the file, at the end the JSON state; of a file that lacks something, also the header of the
image as it was in memory. Whoever wants to know what is in a snapshot, or a few tensors of it, reads these, and not the
chunks of 64 MiB in which they lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.hashing import digest
from resilient.snapshot.image import Layout, state_place

_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class End:
    """Bytes, and their hexadecimal xxh3-128."""

    size: int
    xxh3_128: str


@dataclass(frozen=True)
class Ends:
    """Those of one file."""

    front: End
    back: End


def ends_of(header: bytes | memoryview, back: Sequence[bytes | memoryview]) -> Ends:
    """:param back: the end of the file, in pieces."""
    return Ends(_end(header), _end(b"".join(back)))


def ends_of_image(image: memoryview) -> Ends | None:
    """Those of an image that is stored as it is; None if it is none of ours."""
    try:
        layout = Layout.parse(image)
        place = state_place(layout)
    except SnapshotCorrupt:
        return None
    return ends_of(layout.header, [image[place.offset :]])


def ends_from(entry: Mapping[str, Any], size: int) -> Ends:
    """From its JSON.

    :param size: of the file.
    :raises ValueError: it cannot be so; or KeyError, TypeError.
    """
    front, back = (End(int(entry[name]["size"]), entry[name]["xxh3_128"]) for name in ("front", "back"))
    for end in (front, back):
        if not 0 <= end.size <= size or not _HASH.fullmatch(end.xxh3_128):
            raise ValueError(f"a file of {size} bytes has no such end: {end}")
    return Ends(front, back)


def _end(data: bytes | memoryview) -> End:
    return End(len(data), digest(data))
