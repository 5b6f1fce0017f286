"""Files of safetensors: their header, what they hold, and how one is written, tensor by tensor.

https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, tensors without gaps)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.convert.checkpoint import LazyTensor
from resilient.convert.lazy import FileTensor, MappedFile, elements_of
from resilient.convert.torch_source import first_bytes
from resilient.errors import CheckpointUnreadable, SnapshotCorrupt, StateError
from resilient.snapshot.image import ITEM_SIZE, Layout, TensorSpec, header_size
from resilient.snapshot.storage import Storage, Writer
from resilient.worker.leaves import DTYPES, TORCH_DTYPES

_LONGEST_HEADER = 100_000_000
"""Bytes; of safetensors itself."""


def is_safetensors(path: Path) -> bool:
    if not path.is_file():
        return False
    beginning = first_bytes(path, 9)
    if len(beginning) < 9 or beginning[8:] != b"{":
        return False
    return int.from_bytes(beginning[:8], "little") < path.stat().st_size or path.suffix == ".safetensors"


def read_header(path: Path) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
    """The tensors in a file by name, and its metadata.

    :raises CheckpointUnreadable: it is damaged, cut short or missing.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = header_size(stream.read(8), size)
            stream.seek(0)
            header = stream.read(length)
        layout = Layout.of_header(header, size)
        metadata = json.loads(header[8:]).get("__metadata__") or {}
    except OSError as error:
        raise CheckpointUnreadable(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except SnapshotCorrupt as error:
        raise CheckpointUnreadable(
            f"{path}: {error.problem}", "it is damaged or cut short; use another copy"
        ) from error
    file = MappedFile(path)
    return {
        name: FileTensor(path, place.offset, name, TORCH_DTYPES[place.spec.dtype], place.spec.shape, mapped=file)
        for name, place in layout.tensors.items()
    }, metadata


def header_of(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The header of a file with these tensors, and the order of their data. Wide types come first, so all are aligned.

    :raises StateError: it would be larger than safetensors reads.
    """
    specs = [TensorSpec(name, DTYPES[tensor.dtype], tensor.shape) for name, tensor in tensors.items()]
    specs.sort(key=lambda spec: -ITEM_SIZE[spec.dtype])
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for spec in specs:
        place = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, offset + spec.size]}
        entries[spec.name], offset = place, offset + spec.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    if len(text) > _LONGEST_HEADER:
        raise StateError(
            f"the header would have {len(text)} bytes, and safetensors reads none of more than {_LONGEST_HEADER}",
            "there is too much beside the tensors: leave it out with --only, or write --to torch, dcp or resilient",
        )
    return struct.pack("<Q", len(text)) + text, [spec.name for spec in specs]


def write_file(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str], storage: Storage) -> None:
    header, order = header_of(tensors, metadata)

    def produce(append: Writer) -> None:
        append(memoryview(header))
        for name in order:
            append(elements_of(tensors[name].read()))

    storage.write(path, produce)
