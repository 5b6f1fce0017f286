"""A state in one file of safetensors, or in several with an index; what is no tensor stands in their metadata as JSON.

Whoever knows nothing of this finds every tensor in the file under its path, those with several names under each.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from resilient.convert import shards
from resilient.convert.checkpoint import Fitted, Format, LazyTensor, Reading, Tree, Writing
from resilient.convert.safetensors_file import header_of, is_safetensors, read_header, write_file
from resilient.convert.typed import KEY, decoded, encoded
from resilient.errors import CheckpointUnreadable, SnapshotCorrupt
from resilient.snapshot.image import STATE
from resilient.snapshot.storage import Storage
from resilient.worker.leaves import DTYPES


class SafetensorsSource:
    """:param path: of a file, or of a directory with an index."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._reading = reading

    @property
    def about(self) -> str:
        tensors, _ = self._found
        return f"{'safetensors in several files' if self.path.is_dir() else 'a file of safetensors'} ({len(tensors)})"

    @property
    def step(self) -> int | None:
        step = self._found[1].get("step", "")
        return int(step) if step.isdecimal() else None

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @cached_property
    def tree(self) -> Tree:
        tensors, metadata = self._found
        if KEY not in metadata:
            return dict(tensors)
        try:
            return decoded(json.loads(metadata[KEY]), tensors, allow_pickle=self._reading.allow_pickle)
        except (ValueError, SnapshotCorrupt) as error:
            raise CheckpointUnreadable(f"{self.path}: the state in the metadata is damaged: {error}") from error

    def verify(self) -> None:
        self._found  # noqa: B018  is looked for, and says what is missing

    @cached_property
    def _found(self) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
        if self.path.is_dir():
            return shards.read_index(shards.index_in(self.path))
        tensors, metadata = read_header(self.path)
        if STATE in tensors:
            raise CheckpointUnreadable(
                f"{self.path} is one rank's image of a snapshot", f"name the snapshot: {self.path.parent}"
            )
        return tensors, metadata


class SafetensorsTarget:
    """One file, or with a shard size a directory of several and their index."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    def fit(self, tree: Tree) -> Fitted:
        """Raises :class:`StateError` for what has no form."""
        header_of(*self._content(tree))
        return Fitted(tree)

    def size(self, tree: Tree) -> int:
        tensors, metadata = self._content(tree)
        return sum(tensor.size for tensor in tensors.values()) + len(header_of(tensors, metadata)[0]) + 4096

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        tensors, metadata = self._content(tree)
        if self._writing.shard_size is None:
            write_file(path, tensors, metadata, storage)
        else:
            shards.write_shards(path, tensors, metadata, self._writing.shard_size, storage)

    def _content(self, tree: Tree) -> tuple[Mapping[str, LazyTensor], Mapping[str, str]]:
        step = {} if self._writing.step is None else {"step": str(self._writing.step)}
        if _is_flat(tree):
            return tree, step
        body, names = encoded(tree, allow_pickle=self._writing.allow_pickle, dtypes=DTYPES)
        return {**names.tensors, **names.again}, {**step, "writer": "resilient", KEY: json.dumps(body)}


def _is_flat(tree: Any) -> bool:
    """Whether safetensors by itself gives it back as it is: plain tensors by name, none of them twice."""
    return (
        type(tree) in (dict, OrderedDict)
        and all(
            isinstance(name, str)
            and name != "__metadata__"
            and isinstance(tensor, LazyTensor)
            and tensor.is_contiguous
            and not tensor.is_array
            and tensor.dtype in DTYPES
            for name, tensor in tree.items()
        )
        and len({id(tensor) for tensor in tree.values()}) == len(tree)
    )


def _recognises(path: Path) -> bool:
    if path.is_dir():
        index = shards.find_index(path)
        return index is not None and KEY in shards.metadata_of(index)
    return is_safetensors(path)


FORMAT = Format("safetensors", "safetensors", _recognises, SafetensorsSource, SafetensorsTarget, suffix=".safetensors")
