"""The ``.metadata`` of a DCP checkpoint, which is a pickle: read with nothing in it that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata

from resilient.errors import CheckpointUnreadable

NAME = ".metadata"
_MODULES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "Path", "PurePosixPath"},
    "pathlib._local": {"PosixPath", "Path", "PurePosixPath"},  # Python 3.13
}
_TYPES = (
    "float64 float32 float16 bfloat16 complex128 complex64 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
)
"""Tensors' types, each of which a pickle names as a global of torch."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _MODULES.get(module, ()) or (module == "torch" and name in _TYPES.split()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it speaks of {module}.{name}, which no plan of a checkpoint needs")


def read_metadata(directory: Path, *, allow_pickle: bool) -> Metadata:
    """:raises CheckpointUnreadable: it is missing or damaged, or holds what needs pickle."""
    path = directory / NAME
    try:
        with path.open("rb") as stream:
            found = (pickle.Unpickler if allow_pickle else _Unpickler)(stream).load()
    except OSError as error:
        raise CheckpointUnreadable(f"{path} cannot be read: {error.strerror}", "the save was cut short") from error
    except Exception as error:  # a pickle that is cut short can fail in any way
        remedy = "use another copy; if it is whole and you trust whoever wrote it, add --allow-pickle"
        raise CheckpointUnreadable(f"{path} cannot be read: {error}", remedy) from error
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise CheckpointUnreadable(f"{path} is no metadata of torch.distributed.checkpoint", "use another copy")
    if bad := [entry for entry in found.state_dict_metadata.values() if not isinstance(entry, _ENTRIES)]:
        raise CheckpointUnreadable(f"{path} speaks of a {type(bad[0]).__name__}, which this release does not know")
    return found


_ENTRIES = (TensorStorageMetadata, BytesStorageMetadata)
