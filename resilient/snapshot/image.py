"""Images: one rank's part of a snapshot as the bytes of a valid safetensors file.

The layout of an image depends only on names, types and shapes, so it is computed once and its header bytes are
reused. The header is padded so that the data begins on a page, and the last tensor, :data:`STATE`, fills up the last
page; an image can thus be written with O_DIRECT as it lies. ``STATE`` holds all state that is no tensor, as JSON
padded with blanks.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, tensors without gaps).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from resilient.errors import SnapshotCorrupt, StateError

PAGE = 4096
STATE = "resilient.state"
HEADER = "resilient.header"
"""In a file that lacks tensors which another image has alike: the header of the image as it was in memory."""
_RESERVED = frozenset({STATE, HEADER, "__metadata__"})
_STATE_HEADROOM = 1.5  # room for numbers that gain digits, so that the layout stays as it is
_MAX_HEADER = 1 << 28

ITEM_SIZE: Mapping[str, int] = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorSpec:
    """Name, safetensors type and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return ITEM_SIZE[self.dtype] * prod(self.shape)


@dataclass(frozen=True)
class Placed:
    """A tensor's place in the image, in bytes from the image's beginning."""

    spec: TensorSpec
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.spec.size


@dataclass(frozen=True)
class Layout:
    """Where everything lies in an image of ``size`` bytes."""

    header: bytes
    tensors: Mapping[str, Placed]
    size: int

    @property
    def state(self) -> Placed:
        return self.tensors[STATE]

    @classmethod
    def plan(cls, specs: Collection[TensorSpec], state_size: int) -> Layout:
        """Lay out an image for these tensors and a state of about ``state_size`` bytes.

        Wide types come first, so every tensor is aligned to its item without gaps, which the format forbids.
        """
        if any(spec.name in _RESERVED for spec in specs):
            raise StateError(
                "a tensor has a name that the image keeps for itself", "register the object as another name"
            )
        ordered = sorted(specs, key=lambda spec: (-ITEM_SIZE[spec.dtype], spec.name))
        used = sum(spec.size for spec in ordered)
        capacity = -(-(used + int(state_size * _STATE_HEADROOM)) // PAGE) * PAGE - used
        ordered.append(TensorSpec(STATE, "U8", (capacity,)))
        return cls.of_specs(ordered)

    @classmethod
    def of_specs(cls, ordered: list[TensorSpec], **about: str) -> Layout:
        """Lay out an image of these tensors, in this order.

        :param about: more for the metadata in the header.
        """
        entries: dict[str, Any] = {"__metadata__": {"format": "pt", "writer": "resilient", **about}}
        offset = 0
        for spec in ordered:
            entries[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [offset, offset + spec.size],
            }
            offset += spec.size
        text = json.dumps(entries, separators=(",", ":")).encode()
        padded = text.ljust(-(-(8 + len(text)) // PAGE) * PAGE - 8)
        header = struct.pack("<Q", len(padded)) + padded
        return cls(header, _place(ordered, len(header)), len(header) + offset)

    @classmethod
    def parse(cls, image: memoryview | bytes) -> Layout:
        """Read the layout of an image, trusting nothing in it.

        :raises SnapshotCorrupt: it is no valid safetensors file of exactly this size.
        """
        header = bytes(image[: header_size(image[:8], len(image))])
        return cls.of_header(header, len(image))

    @classmethod
    def of_header(cls, header: bytes, size: int) -> Layout:
        """Read the layout of an image of ``size`` bytes from its first :func:`header_size` ones.

        :raises SnapshotCorrupt: they describe no image of this size.
        """
        specs = _specs(header[8:])
        layout = cls(header, _place(specs, len(header)), len(header) + sum(spec.size for spec in specs))
        if layout.size != size:
            raise SnapshotCorrupt(f"the image has {size} bytes, its header describes {layout.size}")
        return layout

    def encode_state(self, state: bytes) -> bytes | None:
        """The state padded to its place, or None when it has outgrown it and the image must be laid out anew."""
        capacity = self.state.spec.size
        return state.ljust(capacity) if len(state) <= capacity else None


def header_size(beginning: memoryview | bytes, size: int) -> int:
    """Bytes of the header of an image of ``size`` bytes that begins with these 8.

    :raises SnapshotCorrupt: an image of this size cannot have such a header.
    """
    if len(beginning) < 8:
        raise SnapshotCorrupt(f"an image of {size} bytes has no header")
    (length,) = struct.unpack_from("<Q", beginning)
    if length > min(_MAX_HEADER, size - 8):
        raise SnapshotCorrupt(f"the image's header claims {length} bytes of {size}")
    return 8 + int(length)


def state_place(layout: Layout) -> Placed:
    """Where the JSON state lies in an image.

    :raises SnapshotCorrupt: it has none.
    """
    place = layout.tensors.get(STATE)
    if place is None:
        raise SnapshotCorrupt(f"the image has no {STATE}: it was not written by resilient")
    return place


def read_state(image: memoryview | bytes, layout: Layout) -> Any:
    """The JSON state of an image.

    :raises SnapshotCorrupt: it is missing or no JSON.
    """
    place = state_place(layout)
    return parse_state(bytes(image[place.offset : place.end]))


def parse_state(text: bytes) -> Any:
    """The state from its bytes in an image.

    :raises SnapshotCorrupt: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotCorrupt(f"the image's {STATE} is damaged: {error}") from error


def _place(specs: list[TensorSpec], start: int) -> dict[str, Placed]:
    placed, offset = {}, start
    for spec in specs:
        placed[spec.name] = Placed(spec, offset)
        offset += spec.size
    return placed


def _specs(text: bytes) -> list[TensorSpec]:
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        found = [
            (_whole(start), _whole(end), TensorSpec(name, entry["dtype"], tuple(map(_whole, entry["shape"]))))
            for name, entry in entries.items()
            for start, end in [entry["data_offsets"]]
        ]
        found.sort(key=lambda place: place[:2])  # tensors without elements share their place
        expected = 0
        for start, end, spec in found:
            if start != expected or end - start != spec.size or any(length < 0 for length in spec.shape):
                raise SnapshotCorrupt(f"the image's header places {spec.name} wrongly")
            expected = end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SnapshotCorrupt(f"the image's header is damaged: {error}") from error
    return [spec for _, _, spec in found]


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"{number!r} is no whole number")
    return number
